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
