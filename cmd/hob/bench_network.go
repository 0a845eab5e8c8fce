package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// network measures fresh containers that reach nothing, the internet, and what three
// rules say, in turns, with blanks and without.
func (b *bench) network(ctx context.Context) (err error) {
	tiny, err := b.program("tiny", tinyProgram(runtime.GOARCH))
	if err != nil {
		return err
	}
	var peers []*peer
	if exec.CommandContext(ctx, "docker", "info").Run() == nil && b.dockerImport(ctx, tiny) == nil {
		defer exec.Command("docker", "image", "rm", "-f", "hob-bench-tiny").Run()
		peers = append(peers, &peer{name: "docker run --rm, on its bridge", every: 4, args: func(int) []string {
			return []string{"docker", "run", "--rm", "hob-bench-tiny", "/tiny"}
		}})
	}
	var ours []*freshCalls
	for i, way := range []struct {
		name string
		args []string
	}{{"", nil}, {", no blanks", []string{"--blanks", "-1"}}} {
		d, err := b.daemon(ctx, "network-"+strconv.Itoa(i), way.args...)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, d.stop()) }()
		for _, mode := range []struct {
			name  string
			flags []string
		}{
			{"none", []string{"--network", "none"}},
			{"open", []string{"--network", "open"}},
			{"allow", []string{"--network", "allow", "--allow", "10.1.2.3:5432", "--allow", "10.0.0.0/8:80", "--allow", "*.example.com:443"}},
		} {
			if err := d.function(ctx, tiny, "tiny-"+mode.name, mode.flags); err != nil {
				return err
			}
			ours = append(ours, &freshCalls{daemon: d, of: "tiny-" + mode.name, name: "network " + mode.name + way.name, copies: -1})
		}
	}
	if err := b.latency(ctx, ours, peers, 100*time.Millisecond); err != nil {
		return err
	}
	for i, o := range ours {
		if none := ours[i/3*3]; o != none {
			added := median(o.took) - median(none.took)
			b.number("network", "  "+o.name+": of none", "x", fmt.Sprintf("%d µs more", added.Microseconds()), ratio(median(o.took), median(none.took)))
		}
	}
	return nil
}

// isolation measures fresh containers of the isolations that this machine has, beside their
// programs.
func (b *bench) isolation(ctx context.Context) (err error) {
	tiny, err := b.program("tiny", tinyProgram(runtime.GOARCH))
	if err != nil {
		return err
	}
	bundle := filepath.Join(b.dir, "isolation")
	if err := makeBundle(bundle, tiny); err != nil {
		return err
	}
	d, err := b.daemon(ctx, "isolation")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.stop()) }()
	var ours []*freshCalls
	var peers []*peer
	same := make(map[*peer]*freshCalls)
	for _, i := range []struct{ name, program string }{{"native", ""}, {"gvisor", "runsc"}, {"runc", "runc"}, {"crun", "crun"}} {
		if err := d.function(ctx, tiny, "tiny-"+i.name, []string{"--isolation", i.name, "--network", "none"}); err != nil {
			b.printf("isolation %s: left out: %v\n", i.name, err)
			continue
		}
		ours = append(ours, &freshCalls{daemon: d, of: "tiny-" + i.name, name: "isolation " + i.name, copies: -1})
		if i.program == "" {
			continue
		}
		args := []string{i.program, "--root", filepath.Join(b.dir, i.program)}
		if i.program == "runsc" {
			args = append(args, "--network=none")
			defer exec.Command("umount", filepath.Join(b.dir, i.program, "null-netns")).Run() // which it leaves
		}
		p := &peer{name: i.program + " run", every: 1, args: func(n int) []string {
			return append(args[:len(args):len(args)], "run", "--bundle", bundle, fmt.Sprintf("hob-isolation-%d-%d", os.Getpid(), n))
		}}
		if _, _, err := p.run(ctx, 0); err != nil {
			b.printf("%s: left out: %v\n", i.program, err)
			continue
		}
		peers = append(peers, p)
		same[p] = ours[len(ours)-1]
	}
	if runtimes, err := exec.CommandContext(ctx, "docker", "info", "--format", "{{.Runtimes}}").Output(); err == nil &&
		strings.Contains(string(runtimes), "runsc") && b.dockerImport(ctx, tiny) == nil {
		defer exec.Command("docker", "image", "rm", "-f", "hob-bench-tiny").Run()
		peers = append(peers, &peer{name: "docker run --runtime runsc", every: 4, args: func(int) []string {
			return []string{"docker", "run", "--rm", "--network", "none", "--runtime", "runsc", "hob-bench-tiny", "/tiny"}
		}})
	}
	if err := b.latency(ctx, ours, peers, 100*time.Millisecond); err != nil {
		return err
	}
	for _, p := range peers {
		if o := same[p]; o != nil {
			b.number("isolation", "  "+p.name+": of "+o.name, "x", "", ratio(median(p.first), median(o.took)))
		}
	}
	return nil
}
