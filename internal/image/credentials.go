package image

import (
	"bytes"
	"encoding/json"
	"io"
	"net"
	"os"
	"slices"
	"strings"

	"github.com/docker/cli/cli/config"
	"github.com/docker/cli/cli/config/configfile"
	"github.com/docker/cli/cli/config/types"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"

	"hob/faas"
)

// maxCredentials is the largest file of credentials.
const maxCredentials = faas.MB

// Credentials returns the credentials of auth for registries: a Docker configuration
// as JSON ("auths", or only what stands in it; "credHelpers", "credsStore"), or the
// file that holds one; "": the configuration of this user. A file is read again for
// each pull, so that it may be renewed. What cannot be read is Invalid, and no error
// tells what is in it.
func Credentials(auth string) (authn.Keychain, error) {
	auth = strings.TrimSpace(auth)
	if auth == "" {
		return authn.DefaultKeychain, nil
	}
	k := keychain(func() (*configfile.ConfigFile, error) { return readCredentials(auth) })
	if strings.HasPrefix(auth, "{") {
		k = func() (*configfile.ConfigFile, error) { return parseCredentials([]byte(auth)) }
	}
	if _, err := k(); err != nil {
		return nil, err
	}
	return k, nil
}

func readCredentials(file string) (*configfile.ConfigFile, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, faas.Errorf(faas.Invalid, "credentials for registries: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, int64(maxCredentials)+1))
	if err != nil {
		return nil, faas.Errorf(faas.Invalid, "credentials for registries: %w", err)
	}
	if len(data) > int(maxCredentials) {
		return nil, faas.Errorf(faas.Invalid, "credentials for registries: %s is over the limit of %v", file, maxCredentials)
	}
	c, err := parseCredentials(data)
	if err != nil {
		return nil, faas.Errorf(faas.Invalid, "%s: %w", file, err)
	}
	return c, nil
}

// parseCredentials reads a Docker configuration. Its oldest form is the value of
// "auths" alone.
func parseCredentials(data []byte) (*configfile.ConfigFile, error) {
	var top map[string]json.RawMessage
	if err := json.Unmarshal(data, &top); err != nil {
		return nil, faas.Errorf(faas.Invalid, "credentials for registries: %w", err)
	}
	old := len(top) > 0
	for key, val := range top {
		old = old && strings.ContainsAny(key, ".:/") && bytes.HasPrefix(bytes.TrimSpace(val), []byte("{"))
	}
	if old {
		data = []byte(`{"auths":` + string(data) + `}`)
	}
	c, err := config.LoadFromReader(bytes.NewReader(data))
	if err != nil {
		return nil, faas.Errorf(faas.Invalid, "credentials for registries: %w", err)
	}
	return c, nil
}

// keychain finds the credentials of a registry in a Docker configuration.
type keychain func() (*configfile.ConfigFile, error)

// Resolve returns the credentials for a repository, else for its registry, else none.
func (k keychain) Resolve(target authn.Resource) (authn.Authenticator, error) {
	c, err := k()
	if err != nil {
		return nil, err
	}
	keys := []string{target.String(), target.RegistryStr()}
	if target.RegistryStr() == name.DefaultRegistry {
		keys = []string{target.String(), authn.DefaultAuthKey, name.DefaultRegistry, dockerHub, "registry-1." + dockerHub}
	}
	for _, key := range keys {
		found, ok := c.AuthConfigs[key] // GetAuthConfig knows one name of Docker Hub only
		if !ok {
			if found, err = c.GetAuthConfig(key); err != nil {
				return nil, err
			}
		}
		found.ServerAddress = "" // it is the key
		if found != (types.AuthConfig{}) {
			return authn.FromConfig(authn.AuthConfig{
				Username: found.Username, Password: found.Password, Auth: found.Auth,
				IdentityToken: found.IdentityToken, RegistryToken: found.RegistryToken,
			}), nil
		}
	}
	return authn.Anonymous, nil
}

// Knows reports whether k has credentials for a registry, "host:port": whoever has given them has
// named it.
func Knows(k authn.Keychain, registry string) bool {
	names := []string{registry}
	if host, port, err := net.SplitHostPort(registry); err == nil && (port == "443" || port == "80") {
		names = append(names, host)
	}
	return slices.ContainsFunc(names, func(n string) bool {
		r, err := name.NewRegistry(n)
		if err != nil {
			return false
		}
		auth, err := k.Resolve(r)
		return err == nil && auth != authn.Anonymous
	})
}
