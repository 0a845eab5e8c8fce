package build

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"hob/faas"
)

// Remote says how a base image is found. Its zero value is usable.
type Remote struct {
	Platform string         // as "linux/arm64"; "": this machine's
	Keychain authn.Keychain // nil: the Docker configuration of this user
	Insecure []string       // registries, as "host:port", that are spoken to over plain HTTP; loopback always may be
	Self     string         // "host:port" of the server that references beginning with hob.local/ mean
}

// limits of the JSON documents of a base
const maxDocument = 4 << 20

// OpenBase returns the image at where: a file made by docker save or an OCI
// layout as a tar file, a directory with an OCI layout, else a reference to an
// image in a registry. What exists as a path is a path. It reads a whole image
// of a registry into a temporary file that is gone with the image.
func OpenBase(ctx context.Context, where string, r Remote) (v1.Image, error) {
	want := v1.Platform{OS: "linux", Architecture: runtime.GOARCH}
	if r.Platform != "" {
		p, err := parsePlatform(r.Platform)
		if err != nil {
			return nil, err
		}
		want = p
	}
	info, err := os.Stat(where)
	var img v1.Image
	switch {
	case err == nil && info.IsDir():
		img, err = openLayout(where, want)
	case err == nil:
		img, err = openArchive(where, want)
	case strings.HasPrefix(where, "/") || strings.HasPrefix(where, "."):
		return nil, faas.Errorf(faas.NotFound, "base image %s: no such file or directory", where)
	default:
		img, err = openRemote(ctx, where, want, r)
	}
	if err != nil {
		return nil, err
	}
	cf, err := img.ConfigFile()
	if err != nil {
		return nil, faas.Errorf(faas.Invalid, "base image %s: %w", where, err)
	}
	if has := platformOf(cf); has.OS != want.OS || has.Architecture != want.Architecture {
		return nil, faas.Errorf(faas.Invalid, "base image %s is for %v, not for %v", where, has, want)
	}
	return img, nil
}

// blobs is anything that holds an image's parts by digest.
type blobs func(v1.Hash) (*io.SectionReader, error)

// bytes reads and checks a JSON document.
func (b blobs) bytes(d v1.Descriptor) ([]byte, error) {
	r, err := b(d.Digest)
	if err != nil {
		return nil, err
	}
	if r.Size() > maxDocument {
		return nil, faas.Errorf(faas.TooLarge, "%v of %d bytes is over the limit of %d", d.Digest, r.Size(), maxDocument)
	}
	all, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	if h, _, err := v1.SHA256(bytes.NewReader(all)); err != nil || h != d.Digest {
		return nil, fmt.Errorf("the content of %v is damaged: it has the digest %v", d.Digest, h)
	}
	return all, nil
}

// pick finds the manifest for platform want below an index.
func (b blobs) pick(list []v1.Descriptor, want v1.Platform, depth int) (*stored, error) {
	var others []string
	for _, d := range list {
		if d.MediaType.IsIndex() {
			if depth > 3 {
				return nil, errors.New("indexes are nested more than 4 deep")
			}
			raw, err := b.bytes(d)
			if err != nil {
				return nil, err
			}
			im, err := v1.ParseIndexManifest(bytes.NewReader(raw))
			if err != nil {
				return nil, err
			}
			img, err := b.pick(im.Manifests, want, depth+1)
			if img != nil || faas.KindOf(err) != faas.NotFound {
				return img, err
			}
			others = append(others, err.Error())
			continue
		}
		if !d.MediaType.IsImage() {
			continue
		}
		if d.Platform != nil && (d.Platform.OS != want.OS || d.Platform.Architecture != want.Architecture) {
			others = append(others, d.Platform.String())
			continue
		}
		img := &stored{blobs: b, mediaType: d.MediaType}
		var err error
		if img.manifest, err = b.bytes(d); err != nil {
			return nil, err
		}
		if img.parsed, err = v1.ParseManifest(bytes.NewReader(img.manifest)); err != nil {
			return nil, err
		}
		if img.config, err = b.bytes(img.parsed.Config); err != nil {
			return nil, err
		}
		cf, err := v1.ParseConfigFile(bytes.NewReader(img.config))
		if err != nil {
			return nil, err
		}
		if cf.OS != want.OS || cf.Architecture != want.Architecture {
			others = append(others, platformOf(cf).String())
			continue
		}
		return img, nil
	}
	if len(others) == 0 {
		return nil, faas.Errorf(faas.NotFound, "no image")
	}
	slices.Sort(others)
	return nil, faas.Errorf(faas.NotFound, "%s", strings.Join(slices.Compact(others), ", "))
}

// open finds the image for want in a layout and checks all its layers.
func (b blobs) open(where string, index []byte, want v1.Platform) (v1.Image, error) {
	im, err := v1.ParseIndexManifest(bytes.NewReader(index))
	if err != nil {
		return nil, faas.Errorf(faas.Invalid, "base image %s: its index.json: %w", where, err)
	}
	var names []string
	for _, d := range im.Manifests {
		names = append(names, d.Annotations["org.opencontainers.image.ref.name"])
	}
	slices.Sort(names)
	if names = slices.Compact(names); len(names) > 1 {
		return nil, faas.Errorf(faas.Invalid, "base image %s holds %d images (%s), not one", where, len(names), strings.Join(names, ", "))
	}
	img, err := b.pick(im.Manifests, want, 0)
	switch {
	case faas.KindOf(err) == faas.NotFound:
		return nil, faas.Errorf(faas.Invalid, "base image %s has nothing for %v: it has %v", where, want, err)
	case err != nil:
		return nil, faas.Errorf(faas.Invalid, "base image %s: %w", where, err)
	}
	for _, d := range img.parsed.Layers {
		r, err := b(d.Digest)
		if err != nil {
			return nil, faas.Errorf(faas.Invalid, "base image %s: %w", where, err)
		}
		if h, _, err := v1.SHA256(r); err != nil || h != d.Digest {
			return nil, faas.Errorf(faas.Invalid, "base image %s: layer %v is damaged: it has the digest %v", where, d.Digest, h)
		}
	}
	return partial.CompressedToImage(img)
}

func openLayout(dir string, want v1.Platform) (v1.Image, error) {
	index, err := os.ReadFile(filepath.Join(dir, "index.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, faas.Errorf(faas.Invalid, "base image %s is a directory without an index.json: it is no OCI layout", dir)
	}
	if err != nil {
		return nil, faas.Errorf(faas.Invalid, "base image: %w", err)
	}
	return blobs(func(h v1.Hash) (*io.SectionReader, error) {
		f, err := os.OpenInRoot(dir, path.Join("blobs", h.Algorithm, h.Hex)) // open until it is garbage
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%v is missing", h)
		}
		if err != nil {
			return nil, err
		}
		info, err := f.Stat()
		if err != nil {
			f.Close()
			return nil, err
		}
		return io.NewSectionReader(f, 0, info.Size()), nil
	}).open(dir, index, want)
}

// openArchive opens what docker save, skopeo or WriteTar wrote.
func openArchive(file string, want v1.Platform) (v1.Image, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, faas.Errorf(faas.Invalid, "base image: %w", err)
	}
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		f.Close()
		return nil, faas.Errorf(faas.Invalid, "base image %s is not a regular file", file)
	}
	whole := io.NewSectionReader(f, 0, info.Size())
	in := tar.NewReader(whole)
	parts := make(map[string]*io.SectionReader)
	for {
		hdr, err := in.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			f.Close()
			return nil, faas.Errorf(faas.Invalid, "base image %s is neither a docker save archive nor an OCI layout as a tar file: %w", file, err)
		}
		if len(parts) > 10_000 {
			f.Close()
			return nil, faas.Errorf(faas.Invalid, "base image %s holds more than the limit of 10000 parts", file)
		}
		if hdr.Typeflag == tar.TypeReg {
			at, _ := whole.Seek(0, io.SeekCurrent) // a tar reader does not read ahead
			parts[path.Clean(hdr.Name)] = io.NewSectionReader(f, at, hdr.Size)
		}
	}
	if index, ok := parts["index.json"]; ok && index.Size() <= maxDocument {
		raw, err := io.ReadAll(index)
		if err != nil {
			f.Close()
			return nil, faas.Errorf(faas.Invalid, "base image %s: %w", file, err)
		}
		img, err := blobs(func(h v1.Hash) (*io.SectionReader, error) {
			r, ok := parts[path.Join("blobs", h.Algorithm, h.Hex)]
			if !ok {
				return nil, fmt.Errorf("%v is missing", h)
			}
			return io.NewSectionReader(r, 0, r.Size()), nil
		}).open(file, raw, want)
		if err != nil {
			f.Close()
		}
		return img, err
	}
	f.Close()
	opener := func() (io.ReadCloser, error) { return os.Open(file) }
	list, err := tarball.LoadManifest(opener)
	if err != nil {
		return nil, faas.Errorf(faas.Invalid, "base image %s is neither a docker save archive nor an OCI layout as a tar file: %w", file, err)
	}
	if len(list) != 1 {
		var names []string
		for _, d := range list {
			names = append(names, d.RepoTags...)
		}
		return nil, faas.Errorf(faas.Invalid, "base image %s holds %d images (%s), not one", file, len(list), strings.Join(names, ", "))
	}
	img, err := tarball.Image(opener, nil)
	if err != nil {
		return nil, faas.Errorf(faas.Invalid, "base image %s: %w", file, err)
	}
	return img, nil
}

// openRemote reads an image of a registry into one temporary file: its layers
// are needed twice, to look into and to pass on.
func openRemote(ctx context.Context, where string, want v1.Platform, r Remote) (v1.Image, error) {
	full := where
	if rest, ok := strings.CutPrefix(where, "hob.local/"); ok {
		if r.Self == "" {
			return nil, faas.Errorf(faas.Invalid, "base image %s is in a hob server, and no server is named", where)
		}
		full = r.Self + "/" + rest
	}
	ref, err := name.ParseReference(full)
	if err != nil {
		return nil, faas.Errorf(faas.Invalid, "base image %q is neither a file nor a reference to an image: %w", where, err)
	}
	if host := ref.Context().RegistryStr(); slices.Contains(r.Insecure, host) || full != where {
		if ref, err = name.ParseReference(full, name.Insecure); err != nil {
			return nil, faas.Errorf(faas.Invalid, "base image %q: %w", where, err)
		}
	}
	keys := r.Keychain
	if keys == nil {
		keys = authn.DefaultKeychain
	}
	far, err := remote.Image(ref, remote.WithContext(ctx), remote.WithAuthFromKeychain(keys), remote.WithPlatform(want))
	if err != nil {
		return nil, remoteError(ctx, where, want, err)
	}
	img, err := fetch(ctx, far)
	if err != nil {
		return nil, remoteError(ctx, where, want, err)
	}
	return partial.CompressedToImage(img)
}

func remoteError(ctx context.Context, where string, want v1.Platform, err error) error {
	if cause := ctx.Err(); cause != nil {
		return fmt.Errorf("base image %s: %w", where, cause)
	}
	if _, ok := errors.AsType[*faas.Error](err); ok {
		return err
	}
	if refused, ok := errors.AsType[*transport.Error](err); ok {
		switch refused.StatusCode {
		case 401, 403:
			return faas.Errorf(faas.Denied, "base image %s: the registry refuses access: %w", where, err)
		case 404:
			return faas.Errorf(faas.NotFound, "base image %s: the registry does not have it", where)
		}
	}
	if strings.Contains(err.Error(), "no child with platform") {
		return faas.Errorf(faas.Invalid, "base image %s has nothing for %v", where, want)
	}
	return faas.Errorf(faas.Invalid, "base image %s cannot be read: %w", where, err)
}

// fetch copies the parts of an image into a temporary file without a name.
func fetch(ctx context.Context, far v1.Image) (*stored, error) {
	img := new(stored)
	var err error
	if img.manifest, err = far.RawManifest(); err != nil {
		return nil, err
	}
	if img.config, err = far.RawConfigFile(); err != nil {
		return nil, err
	}
	if img.parsed, err = far.Manifest(); err != nil {
		return nil, err
	}
	if img.mediaType, err = far.MediaType(); err != nil {
		return nil, err
	}
	layers, err := far.Layers()
	if err != nil {
		return nil, err
	}
	out, err := nameless()
	if err != nil {
		return nil, err
	}
	var at int64
	parts := make(map[v1.Hash]*io.SectionReader)
	for i, l := range layers {
		h := img.parsed.Layers[i].Digest
		if parts[h] != nil {
			continue
		}
		n, err := copyLayer(ctx, out, l) // the source checks the digest
		if err != nil {
			out.Close()
			return nil, err
		}
		parts[h] = io.NewSectionReader(out, at, n)
		at += n
	}
	img.blobs = func(h v1.Hash) (*io.SectionReader, error) {
		r, ok := parts[h]
		if !ok {
			return nil, fmt.Errorf("no layer %v", h)
		}
		return io.NewSectionReader(r, 0, r.Size()), nil
	}
	return img, nil
}

func copyLayer(ctx context.Context, out io.Writer, l v1.Layer) (int64, error) {
	in, err := l.Compressed()
	if err != nil {
		return 0, err
	}
	defer in.Close()
	return io.Copy(out, &limited{r: in, left: int64(2 * MaxBytes), ctx: ctx})
}

// A stored image is one whose documents are in memory and whose layers can be
// read at will.
type stored struct {
	blobs            blobs
	manifest, config []byte
	parsed           *v1.Manifest
	mediaType        types.MediaType
}

func (s *stored) RawManifest() ([]byte, error)        { return s.manifest, nil }
func (s *stored) RawConfigFile() ([]byte, error)      { return s.config, nil }
func (s *stored) MediaType() (types.MediaType, error) { return s.mediaType, nil }

func (s *stored) LayerByDigest(h v1.Hash) (partial.CompressedLayer, error) {
	for _, d := range s.parsed.Layers {
		if d.Digest == h {
			return storedLayer{s, d}, nil
		}
	}
	return nil, fmt.Errorf("no layer %v", h)
}

type storedLayer struct {
	img  *stored
	desc v1.Descriptor
}

func (l storedLayer) Digest() (v1.Hash, error)            { return l.desc.Digest, nil }
func (l storedLayer) Size() (int64, error)                { return l.desc.Size, nil }
func (l storedLayer) MediaType() (types.MediaType, error) { return l.desc.MediaType, nil }

func (l storedLayer) Compressed() (io.ReadCloser, error) {
	r, err := l.img.blobs(l.desc.Digest)
	if err != nil {
		return nil, err
	}
	return io.NopCloser(r), nil
}
