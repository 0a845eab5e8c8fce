package doctor

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"hob/faas"
	"hob/internal/sandbox/oci"
)

// runtimes has, for each isolation that is a program, what the program calls itself and how to get it.
var runtimes = map[faas.Isolation]struct{ name, get string }{
	faas.IsolationGVisor: {"runsc", "build it with make runsc, or name it with the setting runtimes, as gvisor=/PATH/runsc"},
	faas.IsolationRunc:   {"runc", "install it (apt install runc), or name it with the setting runtimes, as runc=/PATH/runc"},
	faas.IsolationCrun:   {"crun", "install it (apt install crun), or name it with the setting runtimes, as crun=/PATH/crun"},
}

// isolations looks at each way to keep functions apart; native is possible if nothing of
// looked is missing. A program is asked for its version and, by root, for a sandbox: what it
// makes of a machine is known only then.
func (m Machine) isolations(looked []Check) []Check {
	all := faas.Isolations()
	checks := make([]Check, len(all))
	root := slices.ContainsFunc(looked, func(c Check) bool { return c.Name == "root" && c.OK })
	var work sync.WaitGroup
	for i, of := range all {
		c := &checks[i]
		*c = Check{Name: "isolation " + string(of), Choice: true}
		if of == faas.IsolationNative {
			c.OK, c.Found = Refusal(looked) == nil, "hob's own, which needs no program"
			c.Need = "all of the above"
			if !c.OK {
				c.Found, c.Fix = "something of the above is missing", "see there"
			}
			continue
		}
		c.Need = runtimes[of].name + ", for functions that ask for it"
		if setting, needed := m.Offer.Needed[of]; needed {
			c.Fatal, c.Need = true, runtimes[of].name+", which the setting "+setting+" asks for"
		}
		work.Go(func() {
			version, err := versionOf(of, m.Offer.Programs[of])
			switch {
			case err != nil:
				c.Found, c.Fix = err.Error(), runtimes[of].get
				return
			case !root:
				c.OK, c.Found = true, version+"; only root can try it"
				return
			}
			if err := m.Offer.try(m.Offer.Programs[of]); err != nil {
				c.Found, c.Fix = version+", does not work: "+err.Error(), "give it what it lacks, or name another with the setting runtimes, as "+string(of)+"=/PATH/"+runtimes[of].name
				return
			}
			c.OK, c.Found = true, version
		})
	}
	work.Wait()
	return checks
}

// tryTime is how long a program may take to start a sandbox.
const tryTime = 20 * time.Second

// Try starts a sandbox with a runtime program and ends it: nothing of it is left. It needs root.
func Try(program string) error {
	d, err := oci.New(oci.Config{Program: program, Generation: "doctor" + rand.Text(), Blanks: -1})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), tryTime)
	defer cancel()
	_, err = d.Probe(ctx)
	return errors.Join(err, d.Close())
}

// programTime is how long a program may take to say its version.
const programTime = 10 * time.Second

// versionOf asks a program what it is.
func versionOf(of faas.Isolation, program string) (string, error) {
	found, err := exec.LookPath(program)
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return "", fmt.Errorf("there is no program %s", program)
	case err != nil:
		return "", fmt.Errorf("%s cannot be executed: %w", program, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), programTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, found, "--version")
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	first, _, _ := strings.Cut(string(out), "\n")
	switch {
	case ctx.Err() != nil:
		return "", fmt.Errorf("%s does not tell its version within %v", found, programTime)
	case err != nil:
		return "", fmt.Errorf("%s does not tell its version: %w", found, err)
	case !strings.HasPrefix(first, runtimes[of].name+" version "):
		return "", fmt.Errorf("%s is not %s: as its version it says %.80q", found, runtimes[of].name, first)
	}
	return found + ", " + first, nil
}
