package hyperfunc

import (
	"strings"

	"hob/faas"
)

// A size is what a container of that name has.
type size struct {
	name   string
	memory faas.Bytes
	cpu    faas.CPU
}

// sizes lists all, the smallest first.
func sizes() []size {
	return []size{
		{"s1", 64 * faas.MB, 1000}, {"s2", 128 * faas.MB, 1000}, {"s3", 256 * faas.MB, 1000}, {"s4", 512 * faas.MB, 1000},
		{"m1", 1 * faas.GB, 1000}, {"m2", 2 * faas.GB, 2000}, {"m3", 4 * faas.GB, 2000},
		{"l1", 4 * faas.GB, 4000}, {"l2", 8 * faas.GB, 4000}, {"l3", 16 * faas.GB, 8000},
	}
}

const defaultSize = "s4"

// sizeOf returns the size of this name; Invalid if there is none.
func sizeOf(name string) (size, error) {
	var names []string
	for _, s := range sizes() {
		if s.name == name {
			return s, nil
		}
		names = append(names, s.name)
	}
	return size{}, faas.Errorf(faas.Invalid, "ContainerSize %q is not one of: %s", name, strings.Join(names, ", "))
}

// leastSize is the name of the smallest size with this memory; of the largest if
// there is none.
func leastSize(memory faas.Bytes) string {
	all := sizes()
	for _, s := range all {
		if s.memory >= memory {
			return s.name
		}
	}
	return all[len(all)-1].name
}

// resize gives fn the memory and processors of a size; Invalid if the node never
// has so much memory.
//
// What a function is limited to, the node reserves for it. So processors are
// limited only where the node has enough of them for all calls of the quota at
// once; else they are shared.
func (s *Server) resize(fn *faas.Function, name string) error {
	to, err := sizeOf(name)
	if err != nil {
		return err
	}
	node := s.Capacity
	if node.Memory > 0 && to.memory > node.Memory {
		return faas.Errorf(faas.Invalid, "ContainerSize %s needs %v of memory and this node has %v for functions: the largest that fits is %s",
			name, to.memory, node.Memory, largest(node.Memory))
	}
	fn.Memory, fn.TmpSize, fn.CPU = to.memory, to.memory/2, 0
	if s.Settings.Quota > 0 && to.cpu*faas.CPU(s.Settings.Quota) <= node.CPU {
		fn.CPU = to.cpu
	}
	return nil
}

// largest is the name of the largest size that needs no more than this memory.
func largest(memory faas.Bytes) string {
	name := "none"
	for _, s := range sizes() {
		if s.memory <= memory {
			name = s.name
		}
	}
	return name
}
