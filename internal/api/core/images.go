package core

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"strings"

	"hob/faas"
	"hob/internal/api"
	"hob/internal/image"
)

// pullIn says what to pull, and how.
type pullIn struct {
	Image  string       `json:"image"`
	Policy image.Policy `json:"policy"` // "missing", "always" or "never"; "": always
	Auth   *authIn      `json:"auth"`   // nil: what the daemon's Docker config says
}

// authIn are credentials for this pull only. They are neither kept nor logged.
type authIn struct {
	Username string `json:"username"`
	Password string `json:"password"`
	Token    string `json:"token"`
}

func (s *Server) listImages(w http.ResponseWriter, r *http.Request) error {
	if p := query(r); p.err != nil {
		return p.err
	}
	return answer(w, http.StatusOK, wireImages{Images: wireOfImages(s.Images.List())})
}

func (s *Server) getImage(w http.ResponseWriter, r *http.Request) error {
	m, err := s.Images.Get(r.PathValue("image"))
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, wireOfImage(m))
}

func (s *Server) deleteImage(w http.ResponseWriter, r *http.Request) error {
	if err := s.Images.Remove(r.Context(), r.PathValue("image")); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// pullImage answers JSON lines: the steps of the pull, then the image or the
// error. An error before the first step is answered with its status.
func (s *Server) pullImage(w http.ResponseWriter, r *http.Request) error {
	var in pullIn
	if _, err := readJSON(w, r, &in); err != nil {
		return err
	}
	switch {
	case in.Image == "":
		return faas.Errorf(faas.Invalid, "which image? name it in the field \"image\"")
	case in.Policy != "" && !slices.Contains(pullPolicies, string(in.Policy)):
		return faas.Errorf(faas.Invalid, "field \"policy\" is %q: it must be one of %s", in.Policy, strings.Join(pullPolicies, ", "))
	}
	out := newLines(w)
	ctx, stop := context.WithCancel(r.Context())
	defer stop()
	opt := image.PullOptions{Policy: cmp.Or(in.Policy, image.PullAlways), Owner: image.Owner{Operator: api.Caller(r) == ""}, Progress: func(p image.Progress) {
		wire := wireOfProgress(p)
		if !out.write(wirePullStep{Progress: &wire}) {
			stop() // nobody waits for it any more
		}
	}}
	if in.Auth != nil {
		opt.Credentials = &image.Auth{Username: in.Auth.Username, Password: in.Auth.Password, Token: in.Auth.Token}
	}
	m, err := s.Images.Pull(ctx, in.Image, opt)
	switch {
	case err != nil && !out.begun:
		return err
	case err != nil:
		out.write(s.late(w, r, err))
		return nil
	}
	wire := wireOfImage(m)
	out.write(wirePullStep{Image: &wire})
	return nil
}

// loadImages reads a tar archive of any size.
func (s *Server) loadImages(w http.ResponseWriter, r *http.Request) error {
	p := query(r, "name")
	name := p.text("name")
	if p.err != nil {
		return p.err
	}
	images, err := s.Images.Load(r.Context(), r.Body, name)
	if err != nil {
		api.HearOut(w, r)
		return err
	}
	return answer(w, http.StatusCreated, wireImages{Images: wireOfImages(images)})
}

// pruneImages removes every image that no function uses.
func (s *Server) pruneImages(w http.ResponseWriter, r *http.Request) error {
	used := s.Catalog.Digests()
	removed, freed, err := s.Images.Prune(r.Context(), func(digest string) bool { return used[digest] })
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, wirePruned{Removed: wireOfImages(removed), Freed: int64(freed)})
}

// pin brings the image of fn to the node, as pull says, and writes its digest
// into fn: a tag that moves later changes nothing. The empty pull is "missing";
// with pullLater the first call does all this.
func (s *Server) pin(r *http.Request, fn faas.Function, pull string) (faas.Function, error) {
	if ref, err := s.Images.Normalize(fn.Image); err == nil && ref.Local() {
		fn.Image = ref.String() // the server's address may be another one tomorrow
	}
	if pull == pullLater {
		fn.Digest = ""
		return fn, nil
	}
	app, err := s.Catalog.AppByID(fn.App)
	if err != nil {
		return fn, err
	}
	owner := image.Owner{App: app.Reach(), Function: fn.Reach(), Operator: api.Caller(r) == ""}
	m, err := s.Images.Pull(r.Context(), fn.Image, image.PullOptions{Policy: image.Policy(pull), Owner: owner})
	if err != nil {
		return fn, err
	}
	fn.Digest = m.Digest
	return fn, hasCommand(fn, m)
}

// checkCommand reports whether fn can be started with its image as it is pinned.
func (s *Server) checkCommand(fn faas.Function) error {
	if fn.Digest == "" {
		return nil
	}
	m, err := s.Images.Get(fn.Digest)
	if faas.KindOf(err) == faas.NotFound {
		return nil // it is pulled again when the function is called, and says so then
	}
	if err != nil {
		return err
	}
	return hasCommand(fn, m)
}

func hasCommand(fn faas.Function, m image.Image) error {
	entrypoint, command := fn.Entrypoint, fn.Command
	if entrypoint == nil {
		entrypoint = m.Config.Entrypoint
		if command == nil {
			command = m.Config.Command
		}
	}
	if len(entrypoint)+len(command) == 0 {
		return faas.Errorf(faas.Invalid, "image %s has no command, and function %s gives none", fn.Image, fn.Name)
	}
	return nil
}
