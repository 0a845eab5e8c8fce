package image_test

import (
	"testing"

	"hob/internal/image"
)

func TestRegistryWithCredentialsIsKnown(t *testing.T) {
	k, err := image.Credentials(`{"auths":{"registry.lan:5000":{"auth":"YWxpY2U6c2VjcmV0"},"other.lan":{"auth":"YWxpY2U6c2VjcmV0"}}}`)
	if err != nil {
		t.Fatal(err)
	}
	for address, want := range map[string]bool{
		"registry.lan:5000": true, "registry.lan:5001": false, "other.lan:443": true, "other.lan:5000": false, "third.lan:443": false, "": false,
	} {
		if got := image.Knows(k, address); got != want {
			t.Errorf("%q is known: %v, want %v", address, got, want)
		}
	}
}
