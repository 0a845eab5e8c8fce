package build

import (
	"archive/tar"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"hob/faas"
)

// WriteTar writes img, named ref, as an archive that is both an OCI layout and
// what docker load reads, so the digest of img stays what it is. The same image
// and name give the same bytes.
func WriteTar(w io.Writer, ref string, img v1.Image) error {
	tag, err := name.NewTag(ref)
	if err != nil {
		return faas.Errorf(faas.Invalid, "bad image name %q: %w", ref, err)
	}
	manifest, err := img.RawManifest()
	if err != nil {
		return err
	}
	digest, err := img.Digest()
	if err != nil {
		return err
	}
	mt, err := img.MediaType()
	if err != nil {
		return err
	}
	config, err := img.RawConfigFile()
	if err != nil {
		return err
	}
	configName, err := img.ConfigName()
	if err != nil {
		return err
	}
	cf, err := img.ConfigFile()
	if err != nil {
		return err
	}
	layers, err := img.Layers()
	if err != nil {
		return err
	}

	platform := platformOf(cf)
	index, err := json.Marshal(v1.IndexManifest{
		SchemaVersion: 2,
		MediaType:     types.OCIImageIndex,
		Manifests: []v1.Descriptor{{
			MediaType: mt, Size: int64(len(manifest)), Digest: digest, Platform: &platform,
			Annotations: map[string]string{
				"io.containerd.image.name":          strings.Replace(tag.Name(), name.DefaultRegistry+"/", "docker.io/", 1),
				"org.opencontainers.image.ref.name": tag.TagStr(),
			},
		}},
	})
	if err != nil {
		return err
	}
	type saved struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	repo := strings.TrimSuffix(ref, ":"+tag.TagStr())
	list := saved{Config: blobName(configName), RepoTags: []string{repo + ":" + tag.TagStr()}}

	out := tar.NewWriter(w)
	file := func(name string, size int64) error {
		return out.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644, ModTime: time.Unix(0, 0)})
	}
	data := func(name string, all []byte) error {
		if err := file(name, int64(len(all))); err != nil {
			return err
		}
		_, err := out.Write(all)
		return err
	}
	if err := data("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`)); err != nil {
		return err
	}
	if err := data("index.json", index); err != nil {
		return err
	}
	written := map[v1.Hash]bool{digest: true, configName: true}
	if err := data(blobName(digest), manifest); err != nil {
		return err
	}
	if err := data(blobName(configName), config); err != nil {
		return err
	}
	for _, l := range layers {
		h, err := l.Digest()
		if err != nil {
			return err
		}
		list.Layers = append(list.Layers, blobName(h))
		if written[h] {
			continue
		}
		written[h] = true
		size, err := l.Size()
		if err != nil {
			return err
		}
		if err := file(blobName(h), size); err != nil {
			return err
		}
		in, err := l.Compressed()
		if err != nil {
			return err
		}
		_, err = io.Copy(out, in)
		in.Close()
		if err != nil {
			return fmt.Errorf("write layer %v: %w", h, err)
		}
	}
	all, err := json.Marshal([]saved{list})
	if err != nil {
		return err
	}
	if err := data("manifest.json", all); err != nil {
		return err
	}
	return out.Close()
}

func blobName(h v1.Hash) string { return "blobs/" + h.Algorithm + "/" + h.Hex }
