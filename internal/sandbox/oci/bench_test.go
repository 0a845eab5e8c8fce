package oci

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"hob/faas"
	"hob/internal/testenv"
)

// BenchmarkStart measures until the first byte of a program that says something: with
// the plain runtime program and its own example of a bundle, and with this driver, on
// demand and from a blank, one after the other in each round.
func BenchmarkStart(b *testing.B) {
	for _, name := range []string{"runc", "crun", "runsc"} {
		b.Run(name, func(b *testing.B) {
			program := testenv.NeedTool(b, name)
			onDemand, ahead := open(b, program), open(b, program, func(c *Config) { c.Blanks = 1 })
			s := spec(b, "echo", "hello")
			s.Memory = 128 * faas.MB
			bundle := plainBundle(b, program)
			took := make(map[string][]time.Duration)
			first := func(d *Driver) (time.Duration, faas.Start) {
				begin := time.Now()
				box, err := d.Start(context.Background(), s)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := box.Stdio().Stdout.Read(make([]byte, 1)); err != nil {
					b.Error(err)
				}
				spent := time.Since(begin)
				if err := box.Stop(context.Background(), 0); err != nil {
					b.Error(err)
				}
				return spent, box.Start()
			}
			for range 2 {
				first(ahead)
			}
			for i := range b.N {
				if name != "crun" { // which refuses cgroups of both versions
					took["plain"] = append(took["plain"], plain(b, program, bundle, fmt.Sprintf("hobtest-%d-%d", os.Getpid(), i)))
				}
				spent, _ := first(onDemand)
				took["demand"] = append(took["demand"], spent)
				for end := time.Now().Add(10 * time.Second); ready(ahead, s) == 0 && time.Now().Before(end); {
					time.Sleep(time.Millisecond)
				}
				spent, from := first(ahead)
				if from != faas.StartPrepared {
					b.Errorf("started %s", from)
				}
				took["blank"] = append(took["blank"], spent)
				for end := time.Now().Add(10 * time.Second); ready(ahead, s) == 0 && time.Now().Before(end); {
					time.Sleep(time.Millisecond) // nothing is made beside the next measurement
				}
			}
			for what, all := range took {
				slices.Sort(all)
				b.ReportMetric(float64(all[len(all)/2].Microseconds())/1000, "ms-p50/"+what)
				b.ReportMetric(float64(all[len(all)*9/10].Microseconds())/1000, "ms-p90/"+what)
			}
		})
	}
}

// plainBundle is what "runtime spec" makes, with the image of the tests.
func plainBundle(b *testing.B, program string) string {
	dir := b.TempDir()
	cmd := exec.Command(program, "spec")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	file := filepath.Join(dir, "config.json")
	text, err := os.ReadFile(file)
	if err != nil {
		b.Fatal(err)
	}
	var s specs.Spec
	if err := json.Unmarshal(text, &s); err != nil {
		b.Fatal(err)
	}
	s.Process.Terminal, s.Process.Args, s.Process.Env, s.Root.Path = false, []string{"echo", "hello"}, []string{"PATH=/bin"}, layer(b)
	for _, sub := range []string{"proc", "sys", "dev"} {
		os.Mkdir(filepath.Join(s.Root.Path, sub), 0o755)
	}
	if text, err = json.Marshal(s); err == nil {
		err = os.WriteFile(file, text, 0o600)
	}
	if err != nil {
		b.Fatal(err)
	}
	return dir
}

// plain runs a bundle and returns when the first byte came.
func plain(b *testing.B, program, bundle, id string) time.Duration {
	begin := time.Now()
	cmd := exec.Command(program, "run", "--bundle", bundle, id)
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil {
		b.Error(err)
	}
	took := time.Since(begin)
	if err := cmd.Wait(); err != nil {
		b.Error(err)
	}
	return took
}
