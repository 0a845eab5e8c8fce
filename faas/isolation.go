package faas

import (
	"path"
	"slices"
	"strings"
)

// Isolation is what stands between a function and the machine.
type Isolation string

// Isolations. The first shares the machine's kernel behind our own driver, GVisor has
// a kernel of its own, the others hand the sandbox to that runtime program.
const (
	IsolationNative Isolation = "native"
	IsolationGVisor Isolation = "gvisor"
	IsolationRunc   Isolation = "runc"
	IsolationCrun   Isolation = "crun"
)

// Isolations lists every one. Which of them a node has, depends on its programs.
func Isolations() []Isolation {
	return []Isolation{IsolationNative, IsolationGVisor, IsolationRunc, IsolationCrun}
}

func joinIsolations() string {
	var names []string
	for _, i := range Isolations() {
		names = append(names, string(i))
	}
	return strings.Join(names, ", ")
}

// OwnIsolation is what the function chooses: its field, or AnnotationIsolation.
func (f Function) OwnIsolation() Isolation {
	if f.Isolation != "" {
		return f.Isolation
	}
	return Isolation(strings.Trim(f.Annotations[AnnotationIsolation], `"`)) // checked when it was put
}

// MaxDevices is how many device files a function may have.
const MaxDevices = 16

func checkDevices(devices []string) error {
	if n := len(devices); n > MaxDevices {
		return Errorf(Invalid, "%d devices are over the limit of %d", n, MaxDevices)
	}
	for i, d := range devices {
		if !strings.HasPrefix(d, "/dev/") || path.Clean(d) != d || strings.ContainsRune(d, 0) {
			return Errorf(Invalid, "device %q is not the path of a file below /dev", d)
		}
		if slices.Contains(devices[:i], d) {
			return Errorf(Invalid, "device %s is given twice", d)
		}
	}
	return nil
}
