package catalog_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"testing"
	"testing/synctest"

	"hob/faas"
	"hob/internal/catalog"
	"hob/internal/store"
	"hob/internal/store/memory"
)

func load(t testing.TB, s store.Definitions) *catalog.Catalog {
	t.Helper()
	c, err := catalog.Load(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func function(t testing.TB, c *catalog.Catalog, name string) faas.Function {
	t.Helper()
	app, err := c.App(faas.DefaultApp)
	if err != nil {
		t.Fatal(err)
	}
	return faas.Function{App: app.ID, Name: name, Image: "busybox", Digest: "sha256:" + name}.WithDefaults()
}

func mustPut(t testing.TB, c *catalog.Catalog, fn faas.Function, ifRevision int64) faas.Function {
	t.Helper()
	fn, err := c.PutFunction(t.Context(), fn, ifRevision)
	if err != nil {
		t.Fatal(err)
	}
	return fn
}

func wantError(t *testing.T, err error, kind faas.Kind, text string) {
	t.Helper()
	if faas.KindOf(err) != kind || err.Error() != text {
		t.Errorf("error %v (%s); want %q (%s)", err, faas.KindOf(err), text, kind)
	}
}

func TestWriterReadsItsWrite(t *testing.T) {
	c := load(t, memory.New())
	app, err := c.PutApp(t.Context(), faas.App{Name: "photos", Env: map[string]string{"A": "1"}}, store.IfNew)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := c.App("photos"); err != nil || got.ID != app.ID || got.Env["A"] != "1" {
		t.Errorf("App = %+v, %v", got, err)
	}
	fn := function(t, c, "resize")
	fn.App = app.ID
	fn = mustPut(t, c, fn, store.IfNew)
	fn.Image = "other"
	mustPut(t, c, fn, 1)
	for what, read := range map[string]func() (faas.Function, error){
		"Function":     func() (faas.Function, error) { return c.Function("photos", "resize") },
		"FunctionByID": func() (faas.Function, error) { return c.FunctionByID(fn.ID) },
		"Functions":    func() (faas.Function, error) { return c.Functions("photos")[0], nil },
	} {
		if got, err := read(); err != nil || got.Revision != 2 || got.Image != "other" {
			t.Errorf("%s = %+v, %v; want revision 2", what, got, err)
		}
	}
	if digests := c.Digests(); len(digests) != 1 || !digests["sha256:resize"] {
		t.Errorf("Digests = %v, want sha256:resize", digests)
	}
	if err := c.DeleteApp(t.Context(), app.ID); err != nil {
		t.Fatal(err)
	}
	_, err = c.Function("photos", "resize")
	wantError(t, err, faas.NotFound, `no app "photos"`)
	_, err = c.FunctionByID(fn.ID)
	wantError(t, err, faas.NotFound, fmt.Sprintf("no function with the ID %q", fn.ID))
	_, err = c.AppByID(app.ID)
	wantError(t, err, faas.NotFound, fmt.Sprintf("no app with the ID %q", app.ID))
	if got := c.Functions(""); len(got) != 0 {
		t.Errorf("Functions = %v, want none", got)
	}
}

func TestUnknownNamesAreSaidInWords(t *testing.T) {
	c := load(t, memory.New())
	_, err := c.Function("default", "uper")
	wantError(t, err, faas.NotFound, `no function "uper" in app "default"`)
	_, err = c.Function("defaul", "upper")
	wantError(t, err, faas.NotFound, `no app "defaul"`)
}

func TestDefinitionThatCannotWorkIsNotStored(t *testing.T) {
	s := memory.New()
	c := load(t, s)
	bad := function(t, c, "resize")
	bad.Memory = 1
	if _, err := c.PutFunction(t.Context(), bad, store.IfNew); faas.KindOf(err) != faas.Invalid {
		t.Errorf("PutFunction with 1 byte of memory = %v, want invalid", err)
	}
	if _, err := c.PutApp(t.Context(), faas.App{Name: "a/b"}, store.IfNew); faas.KindOf(err) != faas.Invalid {
		t.Errorf(`PutApp "a/b" = %v, want invalid`, err)
	}
	if _, err := c.PutApp(t.Context(), faas.App{Name: "a", Env: map[string]string{"=": ""}}, store.IfNew); faas.KindOf(err) != faas.Invalid {
		t.Errorf(`PutApp with the variable "=" = %v, want invalid`, err)
	}
	if all, err := s.Functions(t.Context(), ""); err != nil || len(all) != 0 {
		t.Errorf("stored %v, %v; want nothing", all, err)
	}
}

func TestRefusedWriteLeavesTheIndexAlone(t *testing.T) {
	c := load(t, memory.New())
	fn := mustPut(t, c, function(t, c, "resize"), store.IfNew)
	changed := fn
	changed.Image = "other"
	if _, err := c.PutFunction(t.Context(), changed, 7); faas.KindOf(err) != faas.Conflict {
		t.Errorf("PutFunction at revision 7 = %v, want conflict", err)
	}
	if got, err := c.Function("default", "resize"); err != nil || got.Image != fn.Image {
		t.Errorf("Function = %+v, %v; want it unchanged", got, err)
	}
	app, _ := c.App("default")
	if err := c.DeleteApp(t.Context(), app.ID); faas.KindOf(err) != faas.Invalid {
		t.Errorf("DeleteApp of the default app = %v, want invalid", err)
	}
	if _, err := c.Function("default", "resize"); err != nil {
		t.Error(err)
	}
}

func TestListsAreSorted(t *testing.T) {
	c := load(t, memory.New())
	other, err := c.PutApp(t.Context(), faas.App{Name: "a"}, store.IfNew)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"b", "a", "c"} {
		mustPut(t, c, function(t, c, name), store.IfNew)
		fn := function(t, c, name)
		fn.App = other.ID
		mustPut(t, c, fn, store.IfNew)
	}
	var got string
	for _, fn := range c.Functions("") {
		app, err := c.AppByID(fn.App)
		if err != nil {
			t.Fatal(err)
		}
		got += app.Name + "/" + fn.Name + " "
	}
	if want := "a/a a/b a/c default/a default/b default/c "; got != want {
		t.Errorf("Functions = %s, want %s", got, want)
	}
	if apps := c.Apps(); len(apps) != 2 || apps[0].Name != "a" || apps[1].Name != "default" {
		t.Errorf("Apps = %v, want a, default", apps)
	}
}

func TestReadingAFunctionAllocatesNothing(t *testing.T) {
	c := load(t, memory.New())
	fn := function(t, c, "resize")
	fn.Env = map[string]string{"A": "1"}
	mustPut(t, c, fn, store.IfNew)
	if n := testing.AllocsPerRun(100, func() {
		if fn, err := c.Function("default", "resize"); err != nil || fn.Name != "resize" {
			t.Error(fn, err)
		}
	}); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

// slow is a store whose Watch says nothing until it is let go, and whose reads
// fail while broken is set.
type slow struct {
	*memory.Store
	mu     sync.Mutex
	broken error // guarded by mu
	gate   chan struct{}
}

func (s *slow) Watch(ctx context.Context) iter.Seq[store.Change] {
	changes := s.Store.Watch(ctx)
	return func(yield func(store.Change) bool) {
		select {
		case <-s.gate:
		case <-ctx.Done():
			return
		}
		changes(yield)
	}
}

func (s *slow) Apps(ctx context.Context) ([]faas.App, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken != nil {
		return nil, s.broken
	}
	return s.Store.Apps(ctx)
}

func TestChangesOfOthersArrive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memory.New()
		c, other := load(t, s), load(t, s)
		before := mustPut(t, other, function(t, other, "before"), store.IfNew)
		run(t, c)
		made := mustPut(t, other, function(t, other, "made"), store.IfNew)
		if _, err := other.PutApp(t.Context(), faas.App{Name: "photos"}, store.IfNew); err != nil {
			t.Fatal(err)
		}
		if err := other.DeleteFunction(t.Context(), before.ID); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got, err := c.Function("default", "made"); err != nil || got.ID != made.ID {
			t.Errorf("Function made elsewhere = %v, %v", got.ID, err)
		}
		if _, err := c.App("photos"); err != nil {
			t.Error(err)
		}
		if _, err := c.Function("default", "before"); faas.KindOf(err) != faas.NotFound {
			t.Errorf("function deleted elsewhere = %v, want not found", err)
		}
	})
}

func TestOldNewsDoNotUndoAWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &slow{Store: memory.New(), gate: make(chan struct{})}
		c := load(t, s)
		run(t, c)
		synctest.Wait() // it watches, and hears nothing yet
		kept := mustPut(t, c, function(t, c, "kept"), store.IfNew)
		mustPut(t, c, kept, 1)
		gone := mustPut(t, c, function(t, c, "gone"), store.IfNew)
		if err := c.DeleteFunction(t.Context(), gone.ID); err != nil {
			t.Fatal(err)
		}
		again := mustPut(t, c, function(t, c, "gone"), store.IfNew)
		check := func() {
			t.Helper()
			if got, err := c.Function("default", "kept"); err != nil || got.Revision != 2 {
				t.Errorf("kept = revision %d, %v; want 2", got.Revision, err)
			}
			if got, err := c.Function("default", "gone"); err != nil || got.ID != again.ID {
				t.Errorf("function made again = %v, %v; want the new one", got.ID, err)
			}
			if _, err := c.FunctionByID(gone.ID); faas.KindOf(err) != faas.NotFound {
				t.Errorf("deleted function = %v, want not found", err)
			}
		}
		check()
		close(s.gate)
		synctest.Wait()
		check()
	})
}

// quick is a store whose followers hear of a deletion before who deletes.
type quick struct{ *memory.Store }

func (s quick) DeleteFunction(ctx context.Context, id string) error {
	defer synctest.Wait()
	return s.Store.DeleteFunction(ctx, id)
}

func TestDeletionThatWasToldOfFirstIsNotRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := quick{memory.New()}
		c, other := load(t, s), load(t, s.Store)
		run(t, c)
		synctest.Wait()
		gone := mustPut(t, c, function(t, c, "f"), store.IfNew)
		synctest.Wait()
		if err := c.DeleteFunction(t.Context(), gone.ID); err != nil {
			t.Fatal(err)
		}
		mustPut(t, other, gone, store.IfNew) // which what is remembered as deleted would hide
		synctest.Wait()
		if _, err := c.FunctionByID(gone.ID); err != nil {
			t.Error(err)
		}
	})
}

func TestManyChangesAreReadAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &slow{Store: memory.New(), gate: make(chan struct{})}
		c, other := load(t, s), load(t, s.Store)
		run(t, c)
		synctest.Wait()
		for i := range 1500 { // more than the store keeps for who is slow
			mustPut(t, other, function(t, other, fmt.Sprint("fn", i)), store.IfNew)
		}
		if n := len(c.Functions("")); n != 0 {
			t.Fatalf("%d functions before the news, want 0", n)
		}
		close(s.gate)
		synctest.Wait()
		if n := len(c.Functions("")); n != 1500 {
			t.Errorf("%d functions, want 1500", n)
		}
	})
}

func TestStoreThatIsDownForAWhileIsReadAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &slow{Store: memory.New(), gate: make(chan struct{})}
		close(s.gate)
		c, other := load(t, s), load(t, s.Store)
		s.broken = errors.New("disk on fire")
		run(t, c)
		mustPut(t, other, function(t, other, "resize"), store.IfNew)
		synctest.Wait()
		s.mu.Lock()
		s.broken = nil
		s.mu.Unlock()
		ctx, cancel := context.WithTimeout(t.Context(), 1e10)
		defer cancel()
		<-ctx.Done() // ten seconds of the bubble's clock
		if _, err := c.Function("default", "resize"); err != nil {
			t.Error(err)
		}
	})
}

func TestUnreadableStoreIsAnError(t *testing.T) {
	s := &slow{Store: memory.New(), broken: errors.New("disk on fire")}
	if _, err := catalog.Load(t.Context(), s); !errors.Is(err, s.broken) {
		t.Errorf("Load = %v, want %v", err, s.broken)
	}
}

func TestReadersAndWritersAtOnce(t *testing.T) {
	s := memory.New()
	c := load(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	var wg, running sync.WaitGroup
	running.Go(func() {
		if err := c.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	for worker := range 4 {
		fn := function(t, c, fmt.Sprint("fn", worker))
		wg.Go(func() {
			for i := range 100 {
				put, err := c.PutFunction(t.Context(), fn, store.AnyRevision)
				if err != nil {
					t.Error(err)
					return
				}
				fn = put
				got, err := c.Function("default", fn.Name)
				if err != nil || got.Revision != put.Revision {
					t.Errorf("%s after Put = revision %d, %v; want %d", fn.Name, got.Revision, err, put.Revision)
				}
				if i%10 == 9 {
					if err := c.DeleteFunction(t.Context(), fn.ID); err != nil {
						t.Error(err)
					}
					if _, err := c.Function("default", fn.Name); faas.KindOf(err) != faas.NotFound {
						t.Errorf("%s after Delete = %v, want not found", fn.Name, err)
					}
					fn.ID = ""
				}
			}
		})
	}
	wg.Wait()
	cancel()
	running.Wait()
}

// run runs c until the test ends.
func run(t *testing.T, c *catalog.Catalog) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run = %v", err)
		}
	})
}

func BenchmarkFunction(b *testing.B) {
	c := load(b, memory.New())
	for i := range 1000 {
		mustPut(b, c, function(b, c, fmt.Sprint("fn", i)), store.IfNew)
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := c.Function("default", "fn500"); err != nil {
				b.Error(err)
			}
		}
	})
}

func TestChangesAreToldOf(t *testing.T) {
	c := load(t, memory.New())
	for len(c.Changed()) > 0 {
		<-c.Changed()
	}
	if _, err := c.PutApp(t.Context(), faas.App{Name: "photos"}, 0); err != nil {
		t.Fatal(err)
	}
	select {
	case <-c.Changed():
	default:
		t.Error("a new app is not told of")
	}
}

func TestAddressFindsItsFunctionAsLongAsItIsTheLatest(t *testing.T) {
	c := load(t, memory.New())
	fn := mustPut(t, c, function(t, c, "resize"), store.IfNew)
	fn.Address = "e62c014e-386c-42ea-8d07-41d44e98cc3d"
	fn = mustPut(t, c, fn, fn.Revision)
	if got, err := c.ByAddress("resize", fn.Address); err != nil || got.ID != fn.ID {
		t.Errorf("ByAddress = %v, %v; want the function", got.ID, err)
	}
	for _, wrong := range [][2]string{{"other", fn.Address}, {"resize", ""}, {"resize", "x"}, {"", fn.Address}} {
		if _, err := c.ByAddress(wrong[0], wrong[1]); faas.KindOf(err) != faas.NotFound {
			t.Errorf("ByAddress(%q) = %v, want not found", wrong, err)
		}
	}
	old := fn.Address
	fn.Address = "11f91366-2fea-4381-8297-dc12f6ba200a"
	fn = mustPut(t, c, fn, fn.Revision)
	if _, err := c.ByAddress("resize", old); faas.KindOf(err) != faas.NotFound {
		t.Errorf("the old address: %v, want not found", err)
	}
	if err := c.DeleteFunction(t.Context(), fn.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := c.ByAddress("resize", fn.Address); faas.KindOf(err) != faas.NotFound {
		t.Errorf("the address of a function that is no more: %v, want not found", err)
	}
}

func TestFunctionWithATriggerIsNotDeletedAsOneWithout(t *testing.T) {
	c, _ := routed(t, "/a")
	fn, err := c.Function(faas.DefaultApp, "f0")
	if err != nil {
		t.Fatal(err)
	}
	wantError(t, c.DeleteUntriggered(t.Context(), fn.ID), faas.Conflict, `the trigger "t0" leads to the function`)
	for trigger := range c.TriggersOf(fn.ID) {
		if err := c.DeleteTrigger(t.Context(), trigger.ID); err != nil {
			t.Error(err)
		}
	}
	if err := c.DeleteUntriggered(t.Context(), fn.ID); err != nil {
		t.Error(err)
	}
	wantError(t, c.DeleteUntriggered(t.Context(), fn.ID), faas.NotFound, fmt.Sprintf("no function with the ID %q", fn.ID))
}
