package sandbox_test

import (
	"reflect"
	"strings"
	"testing"

	"hob/faas"
	"hob/internal/sandbox"
)

var all = sandbox.Capabilities{Driver: "all", UserNamespaces: true, Egress: true, Ports: true, Devices: true}

func least() sandbox.Spec {
	return sandbox.Spec{Args: []string{"true"}, Root: sandbox.Root{Layers: []string{"/layer"}}, Memory: faas.MinMemory}
}

func TestWhatASpecLeavesToTheDriverIsFilledIn(t *testing.T) {
	s := least()
	s.Dir, s.Sockets = "srv/../home", "run/sockets"
	s.Volumes = []string{"/data/deep", "data"}
	given := s.Volumes[0]
	got, err := s.Complete(all, 1)
	if err != nil {
		t.Fatal(err)
	}
	want := s
	want.Dir, want.Sockets, want.TmpSize = "/home", "/run/sockets", faas.MinMemory/2
	want.Volumes = []string{"/data", "/data/deep"}
	want.Limits = sandbox.Limits{PIDs: 1024, Files: 65536, LockedMemory: faas.MB, PendingSignals: 4096, MessageQueues: 800 * faas.KB, TmpInodes: int(want.TmpSize / faas.KB)}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
	if s.Volumes[0] != given {
		t.Errorf("the caller's volumes are changed to %v", s.Volumes)
	}
	if again, err := got.Complete(all, 1); err != nil || !reflect.DeepEqual(again, got) {
		t.Errorf("completed again: %+v, %v", again, err)
	}
}

func TestWhatADriverLacksIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		lacks func(*sandbox.Capabilities)
		wants func(*sandbox.Spec)
		kind  faas.Kind
		says  string
	}{
		"user namespaces": {func(c *sandbox.Capabilities) { c.UserNamespaces, c.Notes = false, []string{"an old kernel"} }, func(*sandbox.Spec) {}, faas.Unsupported, "as root: an old kernel"},
		"devices":         {func(c *sandbox.Capabilities) { c.Devices = false }, func(s *sandbox.Spec) { s.Devices = []string{"/dev/kvm"} }, faas.Unsupported, "sandboxes of all cannot have devices"},
		"networks":        {func(c *sandbox.Capabilities) { c.Egress = false }, func(s *sandbox.Spec) { s.Network.Mode = faas.NetworkOpen }, faas.Unsupported, "cannot give a function a network"},
		"small starts":    {func(*sandbox.Capabilities) {}, func(s *sandbox.Spec) { s.PIDs = 15 }, faas.Invalid, "15 processes is under the least of 16, with which all starts"},
	} {
		can, s := all, least()
		c.lacks(&can)
		c.wants(&s)
		if _, err := s.Complete(can, 16); faas.KindOf(err) != c.kind || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v; want %v, %q", name, err, c.kind, c.says)
		}
		if _, err := s.Complete(all, 15); err != nil {
			t.Errorf("%s: with all there is: %v", name, err)
		}
	}
}

func TestGenerationsAreScattered(t *testing.T) {
	a, b := sandbox.Scatter("ldmdhbj1"), sandbox.Scatter("ldmdhbj2")
	if a>>32 == b>>32 || uint32(a) == uint32(b) {
		t.Errorf("%x and %x have a half in common", a, b)
	}
}
