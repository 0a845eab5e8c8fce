package hyperfunc_test

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"hob/faas"
	"hob/internal/store"
)

func TestWhatTheNodeCannotGiveIsRefusedWithTheReason(t *testing.T) {
	s := newServer(t)
	for want, refusal := range map[int]error{
		http.StatusNotImplemented: faas.Errorf(faas.Unsupported, "this node cannot give the isolation gvisor: no program runsc"),
		http.StatusForbidden:      faas.Errorf(faas.Denied, "the operator of this node does not allow it"),
		http.StatusBadRequest:     faas.Errorf(faas.Invalid, "this node has no network lan"),
	} {
		s.Catalog.Admit = func(_ context.Context, _ faas.App, fn faas.Function) error {
			if fn.ID == "" {
				return nil
			}
			return refusal
		}
		if status, body := send(s.Handler(), "POST", "/funcs/create", `{"Name":"g","Config":{"Image":"ubuntu"}}`); status != want || body != refusal.Error()+"\n" {
			t.Errorf("%d %q, want %d %q", status, body, want, refusal)
		}
	}
}

func TestNetworkModeIsWhatTheFunctionReaches(t *testing.T) {
	s := newServer(t)
	s.Insecure = true
	h := s.Handler()
	for mode, want := range map[string]string{"": "", "bridge": "", "default": "", "none": "none", "host": "host"} {
		name := "f" + mode
		if status, body := send(h, "POST", "/funcs/create", `{"Name":"`+name+`","Config":{"Image":"ubuntu"},"HostConfig":{"NetworkMode":"`+mode+`"}}`); status != http.StatusCreated {
			t.Fatalf("%s: %d %s", mode, status, body)
		}
		fn, err := s.Catalog.Function("hyper", name)
		if err != nil || fn.Network != want {
			t.Errorf("NetworkMode %q: network %q, %v; want %q", mode, fn.Network, err, want)
		}
	}
	fn, err := s.Catalog.Function("hyper", "fnone")
	if err != nil {
		t.Fatal(err)
	}
	fn = fn.Clone()
	for network, want := range map[string]string{"allow": "bridge", "host": "host", "none": "none", "lan": "bridge"} {
		fn.Network = network
		if fn, err = s.Catalog.PutFunction(t.Context(), fn, store.AnyRevision); err != nil {
			t.Fatal(err)
		}
		if _, body := send(h, "GET", "/funcs/fnone", ""); !strings.Contains(body, `"NetworkMode":"`+want+`"`) {
			t.Errorf("network %s, which another API has set: %s, want %s", network, body, want)
		}
	}
}
