package oci

import (
	"slices"
	"strings"

	"hob/faas"
	"hob/internal/sandbox"
)

// complete checks spec and fills in what it leaves to the driver.
func (d *Driver) complete(spec sandbox.Spec) (sandbox.Spec, error) {
	spec, err := spec.Complete(d.caps, d.kind.leastPIDs)
	switch {
	case err != nil:
		return spec, err
	case spec.Dir == "/proc" || strings.HasPrefix(spec.Dir, "/proc/"):
		return spec, faas.Errorf(faas.Invalid, "the working directory cannot be %s: while a sandbox is made, links in /proc lead out of it", spec.Dir)
	case spec.Listen != "" && d.kind.ownKernel:
		return spec, d.noTCP()
	}
	return spec, nil
}

// noTCP is the refusal of a runtime whose networks are its own.
func (d *Driver) noTCP() error {
	return faas.Errorf(faas.Unsupported, "the network of a sandbox of %s is its own: nobody outside can connect to its TCP ports or listen there "+
		"(formats port and lambda); use a format over stdio or a Unix socket, or another isolation", d.kind.name)
}

// directories returns what must exist in the root of spec.
func directories(spec sandbox.Spec) []string {
	dirs := append([]string{spec.Dir}, spec.Volumes...)
	if spec.Sockets != "" {
		dirs = append(dirs, spec.Sockets)
	}
	return slices.DeleteFunc(dirs, func(dir string) bool { return dir == "/" || dir == "" })
}

// inScratch reports whether a path is in what is mounted when the sandbox starts:
// it is empty then.
func inScratch(spec sandbox.Spec, at string) bool {
	for _, dir := range append(spec.Scratches(), "/dev") {
		if at == dir || strings.HasPrefix(at, dir+"/") {
			return true
		}
	}
	return false
}
