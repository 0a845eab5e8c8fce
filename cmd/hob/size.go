package main

import (
	"slices"
	"strings"

	"hob/faas"
)

// size is a ready-made limit of memory and processors, under the name that
// Hyper gave it.
type size struct {
	name   string
	memory faas.Bytes
	cpus   faas.CPU
}

func sizes() []size {
	return []size{
		{"s1", 64 * faas.MB, 1000},
		{"s2", 128 * faas.MB, 1000},
		{"s3", 256 * faas.MB, 1000},
		{"s4", 512 * faas.MB, 1000},
		{"m1", 1 * faas.GB, 1000},
		{"m2", 2 * faas.GB, 2000},
		{"m3", 4 * faas.GB, 2000},
		{"l1", 4 * faas.GB, 4000},
		{"l2", 8 * faas.GB, 4000},
		{"l3", 16 * faas.GB, 8000},
	}
}

func parseSize(name string) (size, error) {
	i := slices.IndexFunc(sizes(), func(s size) bool { return s.name == name })
	if i < 0 {
		return size{}, faas.Errorf(faas.Invalid, "bad --size %q: it is one of %s", name, strings.Join(sizeNames(), ", "))
	}
	return sizes()[i], nil
}

func sizeNames() (names []string) {
	for _, s := range sizes() {
		names = append(names, s.name)
	}
	return names
}
