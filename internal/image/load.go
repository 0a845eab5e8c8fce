package image

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"hob/faas"
	"hob/internal/image/content"
	"hob/internal/image/layer"
)

// Limits of an archive.
const (
	maxArchiveEntries = 100_000
	maxArchiveJSON    = 4 * faas.MB
)

// Load reads images from an archive, compressed or not: what docker save
// writes, in its old and its new form, or a tar of an OCI image layout. Blobs go
// straight to disk. The images get the names that the archive has for them, or,
// if name is not empty, that name, in which case the archive must hold one image
// for this platform. It returns the images in the order of the archive.
//
// A fault of the archive is Invalid, an image for another platform Unsupported,
// a full disk Busy.
func (s *Store) Load(ctx context.Context, r io.Reader, name string) ([]Image, error) {
	plain, _, err := layer.Decompress(r)
	if err != nil {
		return nil, faas.Errorf(faas.Invalid, "load images: %w", err)
	}
	defer plain.Close()
	return s.load(ctx, name, func(a *archive) error { return a.readTar(ctx, plain) })
}

// LoadPath reads images from a file as Load does, or from a directory with an
// OCI image layout or an unpacked archive.
func (s *Store) LoadPath(ctx context.Context, file, name string) ([]Image, error) {
	info, err := os.Stat(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, faas.Errorf(faas.NotFound, "load images: no file %s", file)
	}
	if err != nil {
		return nil, fmt.Errorf("load images: %w", err)
	}
	if info.IsDir() {
		return s.load(ctx, name, func(a *archive) error { return a.readDir(ctx, file) })
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("load images: %w", err)
	}
	defer f.Close()
	return s.Load(ctx, f, name)
}

// found is one image of an archive: blobs that are in the content store now.
type found struct {
	digest string // of a manifest or list
	names  []string
}

func (s *Store) load(ctx context.Context, name string, read func(*archive) error) ([]Image, error) {
	lease := s.blobs.Lease()
	// What the archive has beside its images is not kept.
	defer s.release(lease, true)
	a := &archive{store: s, lease: lease, blobs: make(map[string]string), links: make(map[string]string), small: make(map[string][]byte)}
	if err := read(a); err != nil {
		return nil, loadError(err)
	}
	images, err := a.images(ctx)
	if err != nil {
		return nil, loadError(err)
	}
	if name != "" {
		if len(images) != 1 {
			return nil, faas.Errorf(faas.Invalid, "load images: the archive holds %d images, which cannot all be named %s", len(images), name)
		}
		images[0].names = []string{name}
	}
	var out []Image
	for _, f := range images {
		var refs []Reference
		for _, n := range f.names {
			r, err := s.Normalize(n)
			if err != nil {
				return out, err
			}
			refs = append(refs, r)
		}
		shown := f.digest
		if len(refs) > 0 {
			shown = refs[0].Familiar()
		}
		img, err := s.adopt(ctx, lease, shown, f.digest, refs, nil)
		if err != nil {
			return out, fmt.Errorf("load images: %w", err)
		}
		s.log.Info("image loaded", "image", shown, "digest", img.Digest, "size", img.Size)
		out = append(out, img)
	}
	return out, nil
}

func loadError(err error) error {
	if c := classify(err); faas.KindOf(c) != faas.Internal {
		return faas.Errorf(faas.KindOf(c), "load images: %w", err)
	}
	return fmt.Errorf("load images: %w", err)
}

// archive is what has been read of an archive: its large files as blobs, its
// small ones, which may be descriptions, in memory too.
type archive struct {
	store   *Store
	lease   *content.Lease
	blobs   map[string]string // path → digest
	links   map[string]string // path → path
	small   map[string][]byte // path → bytes
	entries int
}

func badArchive(format string, args ...any) error { return faas.Errorf(faas.Invalid, format, args...) }

// describes reports whether a file of this name may describe images.
func describes(name string) bool {
	switch name {
	case "manifest.json", "index.json", "oci-layout", "repositories":
		return true
	}
	return false
}

func (a *archive) readTar(ctx context.Context, r io.Reader) error {
	src := &sourceReader{ctx: ctx, r: r}
	tr := tar.NewReader(src)
	for {
		h, err := tr.Next()
		if err == io.EOF && a.entries == 0 {
			return badArchive("it is empty, or no tar archive")
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return src.fault(err)
		}
		name := path.Clean(strings.TrimLeft(h.Name, "/"))
		switch h.Typeflag {
		case tar.TypeReg, tar.TypeGNUSparse:
			err = a.add(ctx, name, h.Size, tr)
		case tar.TypeSymlink:
			a.links[name] = path.Join(path.Dir(name), h.Linkname)
		case tar.TypeLink:
			a.links[name] = path.Clean(h.Linkname)
		}
		if err != nil {
			if src.err != nil || errors.Is(err, io.ErrUnexpectedEOF) {
				return src.fault(err)
			}
			return err
		}
		if a.entries++; a.entries > maxArchiveEntries {
			return badArchive("the archive is over the limit of %d entries", maxArchiveEntries)
		}
	}
}

// sourceReader ends with its context and remembers an error of the reader below
// the tar.
type sourceReader struct {
	ctx context.Context
	r   io.Reader
	err error
}

func (s *sourceReader) Read(p []byte) (int, error) {
	if s.ctx.Err() != nil {
		s.err = context.Cause(s.ctx)
		return 0, s.err
	}
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

func (s *sourceReader) fault(err error) error {
	if s.ctx.Err() != nil {
		return context.Cause(s.ctx)
	}
	if faas.KindOf(err) == faas.Canceled || faas.KindOf(err) == faas.TooLarge {
		return err
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return badArchive("the archive ends in the middle")
	}
	return badArchive("bad archive: %w", err)
}

func (a *archive) readDir(ctx context.Context, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	return fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		if a.entries++; a.entries > maxArchiveEntries {
			return badArchive("the directory is over the limit of %d files", maxArchiveEntries)
		}
		f, err := root.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return err
		}
		return a.add(ctx, name, info.Size(), f)
	})
}

// add takes one file.
func (a *archive) add(ctx context.Context, name string, size int64, r io.Reader) error {
	if describes(name) {
		if size > int64(maxArchiveJSON) {
			return badArchive("%s of %d bytes is over the limit of %v", name, size, maxArchiveJSON)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		a.small[name] = data
		return nil
	}
	if hex, ok := strings.CutPrefix(name, "blobs/sha256/"); ok {
		digest := "sha256:" + hex
		if err := content.CheckDigest(digest); err != nil {
			return badArchive("bad name %q of a blob", name)
		}
		a.lease.Add(digest)
		if err := a.store.blobs.Ingest(ctx, digest, size, r); err != nil {
			return err
		}
		a.blobs[name] = digest
		return nil
	}
	w, err := a.store.blobs.Writer(ctx)
	if err != nil {
		return err
	}
	defer w.Abort()
	if err := copyContext(ctx, w, r); err != nil {
		return err
	}
	digest := w.Digest()
	a.lease.Add(digest)
	if err := w.Commit(""); err != nil {
		return err
	}
	a.blobs[name] = digest
	return nil
}

func copyContext(ctx context.Context, w io.Writer, r io.Reader) error {
	buf := make([]byte, 128<<10)
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n, err := r.Read(buf)
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// file returns the digest of the blob that a path of the archive means.
func (a *archive) file(name string) (string, error) {
	name = path.Clean(strings.TrimLeft(name, "/"))
	for range 10 {
		if digest, ok := a.blobs[name]; ok {
			return digest, nil
		}
		to, ok := a.links[name]
		if !ok {
			break
		}
		name = to
	}
	return "", badArchive("the archive has no file %q, which it speaks of", name)
}

// images finds the images in what has been read.
func (a *archive) images(ctx context.Context) ([]found, error) {
	saved, err := a.saved(ctx)
	if err != nil {
		return nil, err
	}
	if index, ok := a.small["index.json"]; ok {
		return a.layout(index, saved)
	}
	if saved != nil {
		return saved, nil
	}
	return nil, badArchive("this is neither what docker save writes nor an OCI image layout: it has no manifest.json and no index.json")
}

// Annotations that hold the name of an image in a layout.
const (
	annotationRef   = "org.opencontainers.image.ref.name"
	annotationImage = "io.containerd.image.name"
)

// layout finds the images of an OCI image layout. saved is what manifest.json
// beside it says: it may know names that the layout does not.
func (a *archive) layout(raw []byte, saved []found) ([]found, error) {
	index, err := v1.ParseIndexManifest(bytes.NewReader(raw))
	if err != nil {
		return nil, badArchive("bad index.json: %w", err)
	}
	names := make(map[string][]string) // by digest of the config
	for _, f := range saved {
		if m := a.manifest(f.digest); m != nil {
			names[m.Config.Digest.String()] = f.names
		}
	}
	var out []found
	var others []string
	for _, d := range index.Manifests {
		if d.Platform != nil && d.Platform.OS != "" && a.store.fit(*d.Platform) == 0 {
			others = append(others, platformName(*d.Platform))
			continue
		}
		if t := d.MediaType; !t.IsImage() && !t.IsIndex() && t != "" {
			continue
		}
		f := found{digest: d.Digest.String()}
		switch ref := d.Annotations[annotationRef]; {
		case d.Annotations[annotationImage] != "":
			f.names = []string{d.Annotations[annotationImage]}
		case strings.ContainsAny(ref, "/:"): // else it is a tag without a name
			f.names = []string{ref}
		default:
			if m := a.manifest(f.digest); m != nil {
				f.names = names[m.Config.Digest.String()]
			}
		}
		if i := slices.IndexFunc(out, func(o found) bool { return o.digest == f.digest }); i >= 0 {
			out[i].names = append(out[i].names, f.names...)
			continue
		}
		out = append(out, f)
	}
	if len(out) == 0 && len(others) > 0 {
		return nil, faas.Errorf(faas.Unsupported, "the archive has nothing for %s; it has: %s", platformName(a.store.platform), strings.Join(others, ", "))
	}
	if len(out) == 0 {
		return nil, badArchive("the image layout names no image")
	}
	return out, nil
}

// manifest returns the manifest with this digest, nil if it is none.
func (a *archive) manifest(digest string) *v1.Manifest {
	raw, err := a.store.blobs.Read(digest, int64(maxManifest))
	if err != nil {
		return nil
	}
	_, m, err := parseManifest(digest, raw)
	if err != nil {
		return nil
	}
	return m
}

// saved makes manifests for the images that manifest.json lists, because a
// docker save archive has none. Nil: there is no manifest.json.
func (a *archive) saved(ctx context.Context) ([]found, error) {
	raw, ok := a.small["manifest.json"]
	if !ok {
		return nil, nil
	}
	var items []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	if err := json.Unmarshal(raw, &items); err != nil {
		return nil, badArchive("bad manifest.json: %w", err)
	}
	if len(items) == 0 {
		return nil, badArchive("manifest.json names no image")
	}
	var out []found
	for _, item := range items {
		if _, oci := a.small["index.json"]; oci && a.missing(append(item.Layers, item.Config)) {
			continue // of another platform; the layout leads to those that are whole
		}
		m := v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1}
		var err error
		if m.Config, err = a.descriptor(item.Config, types.OCIConfigJSON); err != nil {
			return nil, err
		}
		for _, l := range item.Layers {
			d, err := a.descriptor(l, "")
			if err != nil {
				return nil, err
			}
			m.Layers = append(m.Layers, d)
		}
		if m.Layers == nil {
			m.Layers = []v1.Descriptor{}
		}
		data, err := json.Marshal(m)
		if err != nil {
			return nil, err
		}
		digest := content.Digest(data)
		a.lease.Add(digest)
		if err := a.store.keep(ctx, digest, data); err != nil {
			return nil, err
		}
		out = append(out, found{digest: digest, names: item.RepoTags})
	}
	return out, nil
}

// keep stores a small blob.
func (s *Store) keep(ctx context.Context, digest string, data []byte) error {
	return s.blobs.Ingest(ctx, digest, int64(len(data)), bytes.NewReader(data))
}

func (a *archive) missing(names []string) bool {
	return slices.ContainsFunc(names, func(n string) bool {
		_, err := a.file(n)
		return err != nil
	})
}

// descriptor describes a file of the archive; a layer's type is that of its
// compression.
func (a *archive) descriptor(name string, mediaType types.MediaType) (v1.Descriptor, error) {
	digest, err := a.file(name)
	if err != nil {
		return v1.Descriptor{}, err
	}
	h, err := v1.NewHash(digest)
	if err != nil {
		return v1.Descriptor{}, err
	}
	f, size, err := a.store.blobs.Open(digest)
	if err != nil {
		return v1.Descriptor{}, err
	}
	defer f.Close()
	if mediaType == "" {
		z, compression, err := layer.Decompress(f)
		if err != nil {
			return v1.Descriptor{}, badArchive("layer %q: %w", name, err)
		}
		z.Close()
		switch compression {
		case layer.Gzip:
			mediaType = types.OCILayer
		case layer.Zstd:
			mediaType = types.OCILayerZStd
		default:
			mediaType = types.OCIUncompressedLayer
		}
	}
	return v1.Descriptor{MediaType: mediaType, Size: size, Digest: h}, nil
}
