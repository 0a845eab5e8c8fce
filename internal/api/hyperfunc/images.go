package hyperfunc

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"hob/faas"
	"hob/internal/image"
)

// wireImage is an image as Docker's API 1.23 describes it.
type wireImage struct {
	Id           string
	RepoTags     []string
	RepoDigests  []string
	Parent       string
	Comment      string
	Created      time.Time
	Author       string
	Config       wireImageConfig
	Architecture string
	Os           string
	Size         int64
	VirtualSize  int64
}

type wireImageConfig struct {
	User         string
	ExposedPorts map[string]struct{} `json:",omitempty"`
	Env          []string
	Cmd          []string
	Image        string
	Volumes      map[string]struct{}
	WorkingDir   string
	Entrypoint   []string
	Labels       map[string]string
	StopSignal   string `json:",omitempty"`
}

// image describes an image that is on this node.
func (s *Server) image(w http.ResponseWriter, r *http.Request) error {
	name, ok := strings.CutSuffix(r.PathValue("image"), "/json")
	if !ok {
		return faas.Errorf(faas.NotFound, "no %s here: of the images there are images/NAME/json and images/create", r.URL.Path)
	}
	m, err := s.Images.Get(name)
	if err != nil {
		return noImage(name, err)
	}
	set := func(names []string) map[string]struct{} {
		if len(names) == 0 {
			return nil
		}
		all := make(map[string]struct{})
		for _, n := range names {
			all[n] = struct{}{}
		}
		return all
	}
	out := wireImage{
		Id: m.Digest, RepoTags: []string{}, RepoDigests: []string{}, Created: m.Created.UTC(), Size: int64(m.Size), VirtualSize: int64(m.Size),
		Config: wireImageConfig{
			User: m.Config.User, ExposedPorts: set(m.Config.ExposedPorts), Env: m.Config.Env, Cmd: m.Config.Command, Image: m.Digest,
			Volumes: set(m.Config.Volumes), WorkingDir: m.Config.Workdir, Entrypoint: m.Config.Entrypoint, Labels: m.Config.Labels, StopSignal: m.Config.StopSignal,
		},
	}
	out.Os, out.Architecture, _ = strings.Cut(m.Platform, "/")
	for _, full := range m.Refs {
		ref, err := s.Images.Normalize(full)
		switch {
		case err != nil:
		case ref.Digest != "":
			out.RepoDigests = append(out.RepoDigests, ref.Familiar())
		default:
			out.RepoTags = append(out.RepoTags, ref.Familiar())
		}
	}
	return answer(w, http.StatusOK, out)
}

// noImage is err in Docker's words, if it says that an image is not here.
func noImage(name string, err error) error {
	if faas.KindOf(err) == faas.NotFound {
		return faas.Errorf(faas.NotFound, "No such image: %s", name)
	}
	return err
}

// info is what the client asks for before it pulls: whose credentials to send.
func (s *Server) info(w http.ResponseWriter, _ *http.Request) error {
	return answer(w, http.StatusOK, map[string]string{"IndexServerAddress": "https://index.docker.io/v1/"})
}

// wireStep is a line of a pull.
type wireStep struct {
	Status         string          `json:"status,omitempty"`
	ProgressDetail *progressDetail `json:"progressDetail,omitempty"`
	ID             string          `json:"id,omitempty"`

	ErrorDetail *errorDetail `json:"errorDetail,omitempty"`
	Error       string       `json:"error,omitempty"`
}

type progressDetail struct {
	Current int64 `json:"current,omitempty"`
	Total   int64 `json:"total,omitempty"`
}

type errorDetail struct {
	Message string `json:"message"`
}

// stepStatus are Docker's words for what is done with a layer.
func stepStatus(state image.LayerState) string {
	switch state {
	case image.LayerFetching:
		return "Downloading"
	case image.LayerUnpacking:
		return "Extracting"
	case image.LayerDone:
		return "Pull complete"
	}
	return "Waiting"
}

// pull brings an image to the node and answers JSON lines: the steps, then how
// it ended. A reference that cannot be one is answered with its status.
func (s *Server) pull(w http.ResponseWriter, r *http.Request) error {
	name, tag := r.URL.Query().Get("fromImage"), r.URL.Query().Get("tag")
	if name == "" {
		return faas.Errorf(faas.Invalid, "which image? name it in the parameter fromImage: images cannot be made of anything else here")
	}
	switch {
	case strings.Contains(tag, ":"):
		name += "@" + tag
	case tag != "":
		name += ":" + tag
	}
	ref, err := s.Images.Normalize(name)
	if err != nil {
		return err
	}
	auth, err := credentials(r.Header.Get("X-Registry-Auth"))
	if err != nil {
		return err
	}
	out := newLines(w)
	out.begin("application/json")
	ctx, stop := context.WithCancel(r.Context())
	defer stop()
	write := func(step wireStep) {
		if !out.write(step) {
			stop() // nobody waits for it any more
		}
	}
	before, _ := s.Images.Get(name) // none: it has no digest
	write(wireStep{Status: "Pulling from " + ref.Name(), ID: strings.TrimPrefix(tag, "sha256:")})
	told := make(map[string]image.LayerProgress)
	m, err := s.Images.Pull(ctx, name, image.PullOptions{Policy: image.PullAlways, Credentials: auth, Progress: func(p image.Progress) {
		for _, l := range p.Layers {
			if told[l.Digest] == l {
				continue
			}
			told[l.Digest] = l
			step := wireStep{Status: stepStatus(l.State), ProgressDetail: &progressDetail{}, ID: short(l.Digest)}
			if l.State == image.LayerFetching {
				step.ProgressDetail = &progressDetail{Current: int64(l.Done), Total: int64(l.Total)}
			}
			write(step)
		}
	}})
	if err != nil {
		message := err.Error()
		if faas.KindOf(err) == faas.Internal {
			s.Log.ErrorContext(r.Context(), "pull failed", "image", name, "err", err)
			message = "internal error"
		}
		write(wireStep{ErrorDetail: &errorDetail{message}, Error: message})
		return nil
	}
	status := "Status: Downloaded newer image for "
	if m.Digest == before.Digest {
		status = "Status: Image is up to date for "
	}
	write(wireStep{Status: "Digest: " + m.Digest})
	write(wireStep{Status: status + ref.Familiar()})
	return nil
}

// short is a digest as Docker shows a layer.
func short(digest string) string {
	hex := strings.TrimPrefix(digest, "sha256:")
	return hex[:min(len(hex), 12)]
}

// credentials reads the header X-Registry-Auth: JSON in base64. Nil means those
// of the node.
func credentials(header string) (*image.Auth, error) {
	if header == "" {
		return nil, nil
	}
	var in struct{ Username, Password, RegistryToken string }
	raw, err := base64.URLEncoding.DecodeString(header)
	if err != nil || json.Unmarshal(raw, &in) != nil {
		return nil, faas.Errorf(faas.Invalid, "the header X-Registry-Auth is not a JSON object in base64 (URL alphabet)")
	}
	if in.Username == "" && in.RegistryToken == "" {
		return nil, nil
	}
	return &image.Auth{Username: in.Username, Password: in.Password, Token: in.RegistryToken}, nil
}
