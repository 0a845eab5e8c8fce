package hyperfunc_test

import (
	"encoding/json"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

func TestPullTellsItsStepsInDockersWords(t *testing.T) {
	hub := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer hub.Close()
	image := strings.TrimPrefix(hub.URL, "http://") + "/team/app"
	tag, err := name.NewTag(image + ":1")
	if err != nil {
		t.Fatal(err)
	}
	made, err := random.Image(2000, 2)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(tag, made, remote.WithTransport(hub.Client().Transport)); err != nil {
		t.Fatal(err)
	}
	s := newServer(t)
	h := s.Handler()
	pull := func() (steps []string) {
		status, body := send(h, "POST", "/v1.23/images/create?fromImage="+image+"&tag=1", "")
		if status != http.StatusOK {
			t.Fatalf("%d %s", status, body)
		}
		for line := range strings.Lines(body) {
			var step struct{ Status, ID, Error string }
			if err := json.Unmarshal([]byte(line), &step); err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			steps = append(steps, strings.TrimSpace(step.Status+step.Error))
		}
		return steps
	}
	first := pull()
	for _, want := range []string{"Pulling from " + image, "Pull complete", "Digest: sha256:", "Status: Downloaded newer image for " + image + ":1"} {
		if !strings.Contains(strings.Join(first, "\n"), want) {
			t.Errorf("first pull: no %q in %q", want, first)
		}
	}
	again := pull()
	if last := again[len(again)-1]; last != "Status: Image is up to date for "+image+":1" {
		t.Errorf("second pull ends with %q", last)
	}
	if status, body := send(h, "GET", "/v1.23/images/"+image+":1/json", ""); status != http.StatusOK || !strings.Contains(body, `"RepoTags":["`+image+`:1"]`) {
		t.Errorf("%d %s", status, body)
	}
	image += "-none"
	if last := pull(); !strings.Contains(last[len(last)-1], "app-none") {
		t.Errorf("pull of an image that is not there: %q", last)
	}
}
