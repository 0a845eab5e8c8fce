package image

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"hob/faas"
	"hob/internal/image/content"
)

// Limits of what describes an image.
const (
	maxManifest = 4 * faas.MB // of a manifest or a list, as registries have it
	maxConfig   = 8 * faas.MB
	maxLayers   = 256 // of one image
	maxNesting  = 3   // lists in lists
	maxListed   = 1000
)

// chosen is the manifest for this node's platform, and how it was found.
type chosen struct {
	index    string // digest of the list it came from; "": none
	digest   string
	manifest *v1.Manifest
	reach    []string // all blobs that lead to it: lists and the manifest itself
}

// choose reads the manifest or list raw, which has the given digest, and finds
// the manifest for this node. Further manifests come from get.
func (s *Store) choose(ctx context.Context, ref, digest string, raw []byte, get func(ctx context.Context, digest string) ([]byte, error)) (chosen, error) {
	var c chosen
	for range maxNesting {
		c.reach = append(c.reach, digest)
		list, manifest, err := parseManifest(ref, raw)
		if err != nil {
			return chosen{}, err
		}
		if manifest != nil {
			c.digest, c.manifest = digest, manifest
			return c, nil
		}
		if c.index == "" {
			c.index = digest
		}
		if digest, err = s.pick(ref, list); err != nil {
			return chosen{}, err
		}
		if raw, err = get(ctx, digest); err != nil {
			return chosen{}, err
		}
	}
	return chosen{}, faas.Errorf(faas.Invalid, "image %s: its manifest lists are nested more than %d deep", ref, maxNesting-1)
}

// parseManifest reads a manifest or a list of manifests; one of the two is nil.
func parseManifest(ref string, raw []byte) (*v1.IndexManifest, *v1.Manifest, error) {
	bad := func(format string, args ...any) error {
		return faas.Errorf(faas.Invalid, "image %s: bad manifest: "+format, append([]any{ref}, args...)...)
	}
	var head struct {
		SchemaVersion int64             `json:"schemaVersion"`
		MediaType     types.MediaType   `json:"mediaType"`
		Manifests     []json.RawMessage `json:"manifests"`
		Config        json.RawMessage   `json:"config"`
	}
	if err := json.Unmarshal(raw, &head); err != nil {
		return nil, nil, bad("%v", err)
	}
	switch {
	case head.SchemaVersion == 1:
		return nil, nil, faas.Errorf(faas.Unsupported, "image %s has a manifest of schema 1, which is no longer in use: push it again with a newer tool", ref)
	case head.Manifests != nil:
		list, err := v1.ParseIndexManifest(bytes.NewReader(raw))
		if err != nil {
			return nil, nil, bad("%v", err)
		}
		if n := len(list.Manifests); n > maxListed {
			return nil, nil, bad("%d manifests are over the limit of %d", n, maxListed)
		}
		return list, nil, nil
	case head.Config == nil:
		return nil, nil, bad("it has neither a config nor a list of manifests")
	}
	m, err := v1.ParseManifest(bytes.NewReader(raw))
	if err != nil {
		return nil, nil, bad("%v", err)
	}
	switch m.Config.MediaType {
	case types.OCIConfigJSON, types.DockerConfigJSON, "":
	default:
		return nil, nil, faas.Errorf(faas.Unsupported, "%s is not a container image: its config is of type %s", ref, m.Config.MediaType)
	}
	if n := len(m.Layers); n > maxLayers {
		return nil, nil, bad("%d layers are over the limit of %d", n, maxLayers)
	}
	if m.Config.Size < 0 || m.Config.Size > int64(maxConfig) {
		return nil, nil, bad("a config of %v is over the limit of %v", faas.Bytes(m.Config.Size), maxConfig)
	}
	for _, d := range append(slices.Clone(m.Layers), m.Config) {
		if err := content.CheckDigest(d.Digest.String()); err != nil {
			return nil, nil, bad("%v", err)
		}
		if d.Size < 0 {
			return nil, nil, bad("blob %s has a size of %d", d.Digest, d.Size)
		}
		if strings.HasSuffix(string(d.MediaType), "+encrypted") {
			return nil, nil, faas.Errorf(faas.Unsupported, "image %s has encrypted layers", ref)
		}
	}
	return nil, m, nil
}

// pick chooses the manifest of a list that fits this node.
func (s *Store) pick(ref string, list *v1.IndexManifest) (string, error) {
	best, rank := "", 0
	var present []string
	for _, d := range list.Manifests {
		if d.Annotations["vnd.docker.reference.type"] == "attestation-manifest" {
			continue
		}
		p := d.Platform
		if p == nil || p.OS == "" && p.Architecture == "" {
			if best == "" { // not said: its config will tell
				best = d.Digest.String()
			}
			continue
		}
		present = append(present, platformName(*p))
		if r := s.fit(*p); r > rank {
			best, rank = d.Digest.String(), r
		}
	}
	if best == "" {
		if len(present) == 0 {
			return "", faas.Errorf(faas.Invalid, "image %s: its manifest list names no image", ref)
		}
		slices.Sort(present)
		return "", faas.Errorf(faas.Unsupported, "image %s has nothing for %s; it has: %s", ref, platformName(s.platform), strings.Join(slices.Compact(present), ", "))
	}
	if err := content.CheckDigest(best); err != nil {
		return "", faas.Errorf(faas.Invalid, "image %s: bad manifest list: %w", ref, err)
	}
	return best, nil
}

// fit ranks how well a platform fits this node; 0: not at all.
func (s *Store) fit(p v1.Platform) int {
	if p.OS != s.platform.OS || p.Architecture != s.platform.Architecture {
		return 0
	}
	// The plain variant of an architecture, as the lists of the world name it.
	plain := map[string]string{"amd64": "v1", "arm64": "v8", "arm": "v7"}[p.Architecture]
	switch p.Variant {
	case s.platform.Variant:
		return 3
	case "", plain:
		return 2
	}
	if p.Architecture == "arm" && (p.Variant == "v6" || p.Variant == "v5") {
		return 1
	}
	return 0
}

func platformName(p v1.Platform) string {
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}

// parseConfig reads the config of an image and checks it against its manifest.
func (s *Store) parseConfig(ref string, raw []byte, m *v1.Manifest) (*v1.ConfigFile, error) {
	cfg, err := v1.ParseConfigFile(bytes.NewReader(raw))
	if err != nil {
		return nil, faas.Errorf(faas.Invalid, "image %s: bad config: %v", ref, err)
	}
	if cfg.OS != "" && cfg.Architecture != "" {
		p := v1.Platform{OS: cfg.OS, Architecture: cfg.Architecture, Variant: cfg.Variant}
		if s.fit(p) == 0 {
			return nil, faas.Errorf(faas.Unsupported, "image %s is for %s; this node runs %s", ref, platformName(p), platformName(s.platform))
		}
	}
	if got, want := len(cfg.RootFS.DiffIDs), len(m.Layers); got != want {
		return nil, faas.Errorf(faas.Invalid, "image %s: bad config: it describes %d layers where the manifest has %d", ref, got, want)
	}
	for _, d := range cfg.RootFS.DiffIDs {
		if err := content.CheckDigest(d.String()); err != nil {
			return nil, faas.Errorf(faas.Invalid, "image %s: bad config: %w", ref, err)
		}
	}
	c := cfg.Config
	for _, v := range slices.Concat(c.Entrypoint, c.Cmd, c.Env, []string{c.WorkingDir, c.User, c.StopSignal}, slices.Collect(maps.Keys(c.Volumes))) {
		if strings.ContainsRune(v, 0) {
			return nil, faas.Errorf(faas.Invalid, "image %s: bad config: a value holds a zero byte", ref)
		}
	}
	return cfg, nil
}

func imageConfig(c v1.Config) ImageConfig {
	return ImageConfig{
		Entrypoint:   c.Entrypoint,
		Command:      c.Cmd,
		Env:          c.Env,
		Workdir:      c.WorkingDir,
		User:         c.User,
		Volumes:      slices.Sorted(maps.Keys(c.Volumes)),
		Labels:       c.Labels,
		ExposedPorts: slices.Sorted(maps.Keys(c.ExposedPorts)),
		StopSignal:   c.StopSignal,
	}
}

func (c ImageConfig) clone() ImageConfig {
	c.Entrypoint = slices.Clone(c.Entrypoint)
	c.Command = slices.Clone(c.Command)
	c.Env = slices.Clone(c.Env)
	c.Volumes = slices.Clone(c.Volumes)
	c.Labels = maps.Clone(c.Labels)
	c.ExposedPorts = slices.Clone(c.ExposedPorts)
	return c
}

// chainKey names a stack of layers by the digests of their tars, the lowest
// first: equal keys mean equal files.
func chainKey(diffIDs []string) string {
	if len(diffIDs) == 0 {
		return content.Digest(nil)
	}
	key := diffIDs[0]
	for _, d := range diffIDs[1:] {
		key = content.Digest(fmt.Appendf(nil, "%s %s", key, d))
	}
	return key
}
