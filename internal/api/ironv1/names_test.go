package ironv1

import (
	"strings"
	"testing"

	"hob/faas"
)

func TestFunctionOfARouteIsNamedByItsPath(t *testing.T) {
	for _, tt := range []struct {
		path string
		n    int
		want string
	}{
		{"/", 1, "root"}, {"/", 2, "root-2"}, {"/hello", 1, "hello"}, {"/a/b", 1, "a.b"}, {"/a/b", 3, "a.b-3"}, {"/a b/c?d", 1, "a_b.c_d"},
		{"/ä", 1, "ä"}, {"/users/:id", 1, "users._id"}, {"/...", 1, "..."}, {"/x\xff", 1, "x_"}, {"/" + strings.Repeat("é", 500), 12, strings.Repeat("é", 245) + "-12"},
	} {
		got := functionName(tt.path, tt.n)
		if err := faas.CheckName("function", got); got != tt.want || err != nil {
			t.Errorf("functionName(%q, %d) = %q, want %q; %v", tt.path, tt.n, got, tt.want, err)
		}
	}
}

// FuzzPaths cleans any path: it begins with a slash, has no part that leads anywhere
// else, is clean already, and a function can be named by it.
func FuzzPaths(f *testing.F) {
	for _, seed := range []string{"", "/", "//", "hello", "/hello", "//hello/", "/a/../b", "../../etc/passwd", "/..", "/./.", "/a/./b//c/", "/\x00", "/\xff", "/:id/*", "/%2e%2e/x", "/...", "/a/...", "/ ", "/-", "/_"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, path string) {
		clean := cleanPath(path)
		if !strings.HasPrefix(clean, "/") || cleanPath(clean) != clean || strings.Contains(clean, "//") || clean != "/" && strings.HasSuffix(clean, "/") {
			t.Errorf("cleanPath(%q) = %q", path, clean)
		}
		for part := range strings.SplitSeq(clean, "/") {
			if part == "." || part == ".." {
				t.Errorf("cleanPath(%q) = %q leads out", path, clean)
			}
		}
		for _, n := range []int{1, 2, 10_000} {
			if err := faas.CheckName("function", functionName(clean, n)); err != nil {
				t.Errorf("%q: %v", clean, err)
			}
		}
	})
}
