package faas

import (
	"strconv"
	"strings"
)

// Bytes is an amount of memory or data.
type Bytes int64

// Units of Bytes. hob counts in powers of two, as Docker and the kernel do.
const (
	KB Bytes = 1 << 10
	MB Bytes = 1 << 20
	GB Bytes = 1 << 30
)

// String prints b in the largest unit that divides it, or rounded: "64 MB", "1.5 GB".
func (b Bytes) String() string {
	for _, u := range []struct {
		size Bytes
		name string
	}{{GB, "GB"}, {MB, "MB"}, {KB, "KB"}} {
		if b >= u.size || -b >= u.size {
			s := strconv.FormatFloat(float64(b)/float64(u.size), 'f', 1, 64)
			return strings.TrimSuffix(s, ".0") + " " + u.name
		}
	}
	return strconv.FormatInt(int64(b), 10) + " bytes"
}

// ParseBytes reads "67108864", "64m", "64MB", "64 MiB" or "1.5g" (any case).
func ParseBytes(s string) (Bytes, error) {
	num := strings.ToLower(strings.TrimSpace(s))
	num = strings.TrimSuffix(strings.TrimSuffix(num, "b"), "i")
	unit := Bytes(1)
	if n := len(num); n > 0 {
		switch num[n-1] {
		case 'k':
			unit = KB
		case 'm':
			unit = MB
		case 'g':
			unit = GB
		}
		if unit > 1 {
			num = num[:n-1]
		}
	}
	v, err := strconv.ParseFloat(strings.TrimSpace(num), 64)
	if err != nil || v < 0 || v*float64(unit) > 1<<60 || v != v {
		return 0, Errorf(Invalid, "bad size %q: write it as 64m, 1.5g or 67108864", s)
	}
	return Bytes(v * float64(unit)), nil
}

// CPU is a share of processors in thousandths: 500 is half of one.
type CPU int64

// String prints c in processors: "0.5".
func (c CPU) String() string {
	return strconv.FormatFloat(float64(c)/1000, 'f', -1, 64)
}

// ParseCPU reads "0.5", "2" or "500m".
func ParseCPU(s string) (CPU, error) {
	num, milli := strings.CutSuffix(strings.TrimSpace(s), "m")
	v, err := strconv.ParseFloat(num, 64)
	if !milli {
		v *= 1000
	}
	if err != nil || v < 0 || v > 1e9 || v != v {
		return 0, Errorf(Invalid, "bad cpus %q: write it as 0.5 or 500m", s)
	}
	return CPU(v + 0.5), nil
}

// Resources are what a sandbox takes of a node.
type Resources struct {
	Memory Bytes
	CPU    CPU
}

// Plus returns r and o together.
func (r Resources) Plus(o Resources) Resources { return Resources{r.Memory + o.Memory, r.CPU + o.CPU} }

// Minus returns r without o; it may be negative.
func (r Resources) Minus(o Resources) Resources { return Resources{r.Memory - o.Memory, r.CPU - o.CPU} }
