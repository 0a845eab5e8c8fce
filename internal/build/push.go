package build

import (
	"context"
	"slices"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"hob/faas"
)

// Push brings img to the registry in ref.
func Push(ctx context.Context, img v1.Image, ref string, r Remote) error {
	tag, err := name.NewTag(ref)
	if err == nil && slices.Contains(r.Insecure, tag.RegistryStr()) {
		tag, err = name.NewTag(ref, name.Insecure)
	}
	if err != nil {
		return faas.Errorf(faas.Invalid, "bad image name %q: %w", ref, err)
	}
	keys := r.Keychain
	if keys == nil {
		keys = authn.DefaultKeychain
	}
	if err := remote.Write(tag, img, remote.WithContext(ctx), remote.WithAuthFromKeychain(keys)); err != nil {
		return faas.Errorf(faas.Invalid, "push %s: %w", ref, err)
	}
	return nil
}
