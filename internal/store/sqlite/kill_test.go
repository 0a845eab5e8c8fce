package sqlite_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"hob/faas"
	"hob/internal/store"
	"hob/internal/store/sqlite"
	"hob/internal/store/storetest"
)

// putForever makes apps in the store at path from several goroutines, each of two
// functions with two triggers each, and removes a part of some and all of others.
// It prints each step before it begins, and after the store has returned nil for it.
func putForever(path string) {
	ctx := context.Background()
	say := func(format string, args ...any) { fmt.Printf(format+"\n", args...) } // one write to a pipe: whole or not at all
	s, err := sqlite.Open(ctx, path, store.Limits{})
	if err != nil {
		say("error %v", err)
		return
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := 0; ; i++ {
				app, a, err := putWhole(ctx, s)
				if err != nil {
					say("error %v", err)
					return
				}
				say("put %s", app.ID)
				switch i % 3 {
				case 0:
					continue
				case 1:
					say("shrink %s", app.ID)
					err = s.DeleteFunction(ctx, a.ID)
				case 2:
					say("delete %s", app.ID)
					err = s.DeleteApp(ctx, app.ID)
				}
				if err != nil {
					say("error %v", err)
					return
				}
				say("done %s", app.ID)
			}
		})
	}
	wg.Wait()
}

// putWhole makes an app of two functions, a and b, with two triggers each.
func putWhole(ctx context.Context, s *sqlite.Store) (app faas.App, a faas.Function, err error) {
	if app, err = s.PutApp(ctx, storetest.App(faas.NewID()), store.IfNew); err != nil {
		return app, a, err
	}
	for _, name := range []string{"b", "a"} {
		if a, err = s.PutFunction(ctx, storetest.Function(app, name), store.IfNew); err != nil {
			return app, a, err
		}
		for _, name := range []string{"1", "2"} {
			if _, err = s.PutTrigger(ctx, storetest.Trigger(a, name), store.IfNew); err != nil {
				return app, a, err
			}
		}
	}
	return app, a, nil
}

func TestWhatIsSaidOfDefinitionsSurvivesKill(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hob.db")
	said := make(map[string]string) // what was said last and of what, by ID of the app
	for round := range 3 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "HOB_TEST_PUT_FOREVER="+path)
		cmd.Dir = filepath.Dir(path)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		n := 0
		for lines := bufio.NewScanner(out); lines.Scan(); {
			word, id, _ := strings.Cut(lines.Text(), " ")
			switch word {
			case "error":
				t.Error(lines.Text())
			case "done":
				said[id] += " done"
			default:
				said[id] = word
			}
			if n++; n == 60+17*round {
				if err := cmd.Process.Kill(); err != nil { // SIGKILL; what was printed before it is still read
					t.Error(err)
				}
			}
		}
		_ = cmd.Wait() // killed
		checkDefinitions(t, path, said)
	}
	t.Logf("%d apps", len(said))
}

// checkDefinitions compares the store at path with what was said of it.
func checkDefinitions(t *testing.T, path string, said map[string]string) {
	t.Helper()
	s, err := sqlite.Open(t.Context(), path, store.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	apps, errApps := s.Apps(t.Context())
	functions, errFunctions := s.Functions(t.Context(), "")
	triggers, errTriggers := s.Triggers(t.Context(), "")
	if err := errors.Join(errApps, errFunctions, errTriggers); err != nil {
		t.Fatal(err)
	}
	there := make(map[string]string) // by ID of the app: what is in it, in order
	for _, app := range apps {
		there[app.ID] = "app"
	}
	for _, fn := range functions {
		if there[fn.App] == "" {
			t.Errorf("function %s is in no app", fn.ID)
		}
		there[fn.App] += " " + fn.Name
		for _, trigger := range triggers {
			if trigger.Function == fn.ID {
				there[fn.App] += trigger.Name
			}
		}
	}
	for _, trigger := range triggers {
		if !slices.ContainsFunc(functions, func(fn faas.Function) bool { return fn.ID == trigger.Function }) {
			t.Errorf("trigger %s is of no function", trigger.ID)
		}
	}
	const whole, part = "app a12 b12", "app b12"
	want := map[string][]string{
		"put": {whole}, "shrink": {whole, part}, "shrink done": {part}, "delete": {whole, ""}, "delete done": {""},
	}
	for id, word := range said {
		if !slices.Contains(want[word], there[id]) {
			t.Errorf("%s was said of app %s, and there is %q", word, id, there[id])
		}
	}
}
