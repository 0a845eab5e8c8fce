package oci

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"hob/faas"
	"hob/internal/sandbox"
)

// A kind is what a runtime program is.
type kind struct {
	name  string
	flags []string // before its command
	notes []string // what sandboxes of this kind lack

	// ownKernel says that it has a kernel of its own for the sandbox: it needs no
	// user namespace and no filter of system calls, its processes are not the
	// machine's, and so are its network and files in memory.
	ownKernel bool
	overhead  faas.Bytes // memory that it needs besides the function
	leastPIDs int        // processes and threads that a start takes
	users     int        // the first of the machine's users that stand for those of sandboxes; usersRoom are for them
}

var kinds = []kind{
	{name: "runc", leastPIDs: 16, users: 3_000_000_000},
	{name: "crun", leastPIDs: 4, users: 3_400_000_000},
	{
		name: "runsc", ownKernel: true, overhead: 128 * faas.MB, leastPIDs: 1,
		// Its own network has a loopback; the directory for sockets is the machine's.
		flags: []string{"--platform=systrap", "--host-uds=create", "--host-settings=ignore"},
		notes: []string{
			"the network of a sandbox is gVisor's own: nobody outside can connect to its TCP ports or listen there, so the formats port and lambda do not run",
			"locked memory, pending signals, message queues and the number of files in memory are bounded by the memory limit only",
		},
	},
}

// detect asks a program what it is.
func detect(program string) (kind, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, program, "--version").Output()
	if err != nil {
		return kind{}, faas.Errorf(faas.Unsupported, "%s does not tell its version: %w", program, err)
	}
	first, _, _ := strings.Cut(string(out), "\n")
	for _, k := range kinds {
		if strings.HasPrefix(first, k.name+" version ") {
			return k, nil
		}
	}
	return kind{}, faas.Errorf(faas.Unsupported, "%s is neither runc nor crun nor runsc: its version is %q", program, first)
}

// command returns the arguments with which the program makes a sandbox of the bundle in
// dir, in which the seed runs.
func (k kind) command(program, dir, id string, spec sandbox.Spec) []string {
	args := k.runtime(program, dir)
	if k.ownKernel {
		network, overlay := "none", "none"
		switch {
		case spec.HostNetwork():
			network = "host"
		case spec.OwnDevice():
			network = "sandbox"
		}
		if spec.Writable { // in its own memory, which is limited there
			overlay = "root:memory,size=" + strconv.FormatInt(int64(spec.TmpSize), 10)
		}
		args = append(args, "--network="+network, "--overlay2="+overlay)
	}
	args = append(args, "run", "--detach", "--bundle", dir, "--pid-file", filepath.Join(dir, pidFile))
	if k.ownKernel {
		args = append(args, fmt.Sprintf("--pass-fd=%d:%d", seedStatus, seedStatus), fmt.Sprint("--exec-fd=", seedFile))
	} else {
		args = append(args, fmt.Sprint("--preserve-fds=", seedFile-2))
	}
	return append(args, id)
}

// runtime returns the program with the arguments that each of its commands gets.
func (k kind) runtime(program, dir string) []string {
	args := []string{program, "--root", filepath.Join(dir, stateDir), "--log", filepath.Join(dir, logFile), "--log-format", "json"}
	return append(args, k.flags...)
}

// complaint returns the last error in the program's log; "" if it has none.
func complaint(dir string) string {
	text, _ := os.ReadFile(filepath.Join(dir, logFile))
	last := ""
	for line := range strings.Lines(string(text)) {
		var said struct{ Level, Msg string }
		if json.Unmarshal([]byte(line), &said) == nil && (said.Level == "error" || said.Level == "fatal") {
			last = strings.TrimSpace(said.Msg)
		}
	}
	return last
}
