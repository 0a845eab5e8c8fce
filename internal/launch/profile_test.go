package launch_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"hob/faas"
	"hob/internal/launch"
	"hob/internal/sandbox"
	"hob/internal/sandbox/fake"
)

// profiled is a function as the API of Fn makes them, but of the default format.
func (r *rig) profiled(t *testing.T, cfg v1.Config) faas.Function {
	t.Helper()
	cfg.Cmd = []string{"prog"}
	fn := r.image(t, cfg)
	fn.Profile, fn.User, fn.TmpSize = faas.ProfileFn, "1000:1000", fn.Memory
	return fn
}

func TestProfileIsLaidOverTheFunction(t *testing.T) {
	limits := sandbox.Limits{PIDs: 50, Files: 350, LockedMemory: 64 * faas.KB, PendingSignals: 5000, MessageQueues: 819200, TmpInodes: 100}
	for _, tt := range []struct {
		name    string
		profile launch.Profile
		image   v1.Config
		fn      func(*faas.Function)
		want    func(sandbox.Spec) bool
	}{
		{name: "nothing is decided", want: func(s sandbox.Spec) bool {
			return s.Limits == sandbox.Limits{} && !s.Writable && s.User.UID == 1000 && s.User.GID == 1000 && s.TmpSize == 128*faas.MB
		}},
		{name: "a host name of its own", want: func(s sandbox.Spec) bool {
			return len(s.Hostname) == 12 && slices.Contains(s.Env, "HOSTNAME="+s.Hostname)
		}},
		{name: "limits", profile: launch.Profile{Limits: limits}, want: func(s sandbox.Spec) bool { return s.Limits == limits }},
		{name: "a writable root", profile: launch.Profile{Writable: true}, want: func(s sandbox.Spec) bool { return s.Writable }},
		{name: "a small file system", profile: launch.Profile{MaxFS: 10 * faas.MB}, want: func(s sandbox.Spec) bool { return s.TmpSize == 10*faas.MB }},
		{name: "a large one", profile: launch.Profile{MaxFS: faas.GB}, want: func(s sandbox.Spec) bool { return s.TmpSize == 128*faas.MB }},
		{name: "the user of the image is not asked", image: v1.Config{User: "app"}, want: func(s sandbox.Spec) bool { return s.User.UID == 1000 }},
		{name: "the user of the image", profile: launch.Profile{ImageUser: true}, image: v1.Config{User: "app"}, want: func(s sandbox.Spec) bool { return s.User.UID == 501 }},
		{name: "volumes", profile: launch.Profile{Volumes: true}, image: v1.Config{Volumes: map[string]struct{}{"/data": {}}}, want: func(s sandbox.Spec) bool { return len(s.Volumes) == 1 }},
		{name: "a function of ours", profile: launch.Profile{Limits: limits, Writable: true, MaxFS: faas.MB, ImageUser: true},
			image: v1.Config{User: "app", Volumes: map[string]struct{}{"/data": {}}}, fn: func(fn *faas.Function) { fn.Profile = faas.ProfileHob },
			want: func(s sandbox.Spec) bool {
				return s.Limits == sandbox.Limits{} && !s.Writable && s.User.UID == 1000 && s.TmpSize == 128*faas.MB && len(s.Volumes) == 1 && s.Hostname == "resize"
			}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, succeed)
			r.Fn = tt.profile
			fn := r.profiled(t, tt.image)
			if tt.fn != nil {
				tt.fn(&fn)
			}
			if s := r.spec(t, fn); !tt.want(s) {
				t.Errorf("spec %+v", s)
			}
		})
	}
}

func TestImageWithVolumesIsRefusedByTheProfile(t *testing.T) {
	r := newRig(t, succeed)
	fn := r.profiled(t, v1.Config{Volumes: map[string]struct{}{"/data": {}}})
	_, err := r.call(t, fn)
	if faas.KindOf(err) != faas.Invalid || !errors.Is(err, faas.ErrVolumes) || err.Error() != "image has Volume definition" {
		t.Errorf("error %v of kind %q", err, faas.KindOf(err))
	}
	if len(r.Live()) != 0 || !r.unpinned(t, fn) {
		t.Error("something is left of it")
	}
}

func TestStartTimeoutOfTheProfileIsThatOfFunctionsThatSetNone(t *testing.T) {
	for own, want := range map[time.Duration]string{faas.DefaultStartTimeout: "400ms", 300 * time.Millisecond: "300ms"} {
		r := newRig(t, func(ctx context.Context, p *fake.Proc) int {
			select {
			case <-p.Term:
			case <-ctx.Done():
			}
			return 0
		})
		r.Fn.StartTimeout = 400 * time.Millisecond
		fn := r.profiled(t, v1.Config{})
		fn.Format, fn.StartTimeout = faas.FormatHTTPStream, own
		_, err := r.Start(t.Context(), testApp, fn, func() {})
		if faas.KindOf(err) != faas.TimedOut || !errors.Is(err, faas.ErrStartTimeout) || !strings.Contains(err.Error(), "start timeout of "+want) {
			t.Errorf("start = %v of kind %q, want it after %s", err, faas.KindOf(err), want)
		}
	}
}

func TestLabelIsOnEachSandbox(t *testing.T) {
	r := newRig(t, serve)
	r.Label = "blue"
	c, err := r.Start(t.Context(), testApp, r.hot(t), func() {})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if live := r.Live(); len(live) != 1 || live[0].Label != "blue" {
		t.Errorf("live: %+v", live)
	}
}
