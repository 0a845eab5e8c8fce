package image

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"

	"hob/faas"
	"hob/internal/image/content"
	"hob/internal/image/layer"
)

type Config struct {
	Dir       string
	Self      []string
	PlainHTTP []string
	InUse     func() map[string]bool
	Budget    faas.Bytes
	Keep      []string
	Grace     time.Duration
	Limits    layer.Limits
	Keychain  authn.Keychain
	Log       *slog.Logger
}

type Store struct{}

type Reference struct {
	Registry, Repository, Tag, Digest string
}

var errSoon = errors.New("not yet")

func Open(cfg Config) (*Store, error)                                               { return nil, errSoon }
func (s *Store) Close() error                                                       { return nil }
func (s *Store) Content() *content.Store                                            { return nil }
func (s *Store) Normalize(ref string) (Reference, error)                            { return Reference{}, errSoon }
func (r Reference) String() string                                                  { return "" }
func (r Reference) Familiar() string                                                { return "" }
func (r Reference) Local() bool                                                     { return false }
func (s *Store) Pull(ctx context.Context, ref string, o PullOptions) (Image, error) { return Image{}, errSoon }
func (s *Store) Load(ctx context.Context, r io.Reader, name string) ([]Image, error) {
	return nil, errSoon
}
func (s *Store) LoadPath(ctx context.Context, path, name string) ([]Image, error) { return nil, errSoon }
func (s *Store) Get(ref string) (Image, error)                                    { return Image{}, errSoon }
func (s *Store) List() []Image                                                    { return nil }
func (s *Store) Tag(ctx context.Context, ref, manifestDigest string) error        { return errSoon }
func (s *Store) Remove(ctx context.Context, ref string) error                     { return errSoon }
func (s *Store) Prune(ctx context.Context, keep func(digest string) bool) ([]Image, faas.Bytes, error) {
	return nil, 0, errSoon
}
func (s *Store) Collect(ctx context.Context) ([]Image, faas.Bytes, error) { return nil, 0, errSoon }
func (s *Store) RootFS(ctx context.Context, digest string) (*RootFS, error) {
	return nil, errSoon
}
func (r *RootFS) Release() {}
func (r *RootFS) LookupUser(user string) (uid, gid uint32, groups []uint32, err error) {
	return 0, 0, nil, errSoon
}
