package image

import (
	"slices"
	"strings"
	"testing"
	"time"

	"hob/faas"
)

func TestGarbageIsChosenByNameUseAndSize(t *testing.T) {
	base := time.Unix(1_000_000, 0)
	// Each image has 10 bytes of its own, and a part of 100 that some share.
	img := func(digest string, age int, names string, parts ...string) candidate {
		c := candidate{digest: digest, used: base.Add(-time.Duration(age) * time.Hour), parts: map[string]faas.Bytes{digest: 10}}
		if names != "" {
			c.names = strings.Fields(names)
		}
		for _, p := range parts {
			c.parts[p] = 100
		}
		return c
	}
	for name, c := range map[string]struct {
		g    garbage
		want string
	}{
		"no budget, all have names": {garbage{images: []candidate{img("a", 1, "a"), img("b", 2, "b")}}, ""},
		"the nameless go first":     {garbage{images: []candidate{img("a", 9, "a"), img("b", 1, "")}}, "b"},
		"least recently used":       {garbage{images: []candidate{img("a", 1, "a"), img("b", 3, "b"), img("c", 2, "c")}, budget: 10}, "b c"},
		"no more than needed":       {garbage{images: []candidate{img("a", 1, "a"), img("b", 3, "b"), img("c", 2, "c")}, budget: 20}, "b"},
		"just within":               {garbage{images: []candidate{img("a", 1, "a"), img("b", 3, "b")}, budget: 20}, ""},
		"shared parts count once":   {garbage{images: []candidate{img("a", 1, "a", "x"), img("b", 2, "b", "x")}, budget: 120}, ""},
		"shared parts stay":         {garbage{images: []candidate{img("a", 1, "a", "x"), img("b", 2, "b", "x")}, budget: 115}, "b"},
		"in use":                    {garbage{images: []candidate{img("a", 1, "a"), img("b", 2, "b")}, budget: 1, exempt: map[string]bool{"b": true}}, "a"},
		"nameless in use":           {garbage{images: []candidate{img("b", 2, "")}, exempt: map[string]bool{"b": true}}, ""},
		"exempt by name":            {garbage{images: []candidate{img("a", 1, "a"), img("b", 2, "docker.io/library/b:v1")}, budget: 1, keep: []string{"b:v1"}}, "a"},
		"exempt without tag":        {garbage{images: []candidate{img("b", 2, "docker.io/library/b:v1")}, budget: 1, keep: []string{"b"}}, ""},
		"several exempt":            {garbage{images: []candidate{img("a", 3, "docker.io/library/a:latest"), img("b", 2, "docker.io/team/b:1 docker.io/team/b:2"), img("c", 1, "docker.io/team/c:1")}, budget: 1, keep: []string{"a:latest", "team/b:2", "docker.io/team/c:2"}}, "c"},
		"exempt by pattern":         {garbage{images: []candidate{img("b", 2, "hob.local/team/b:v1"), img("c", 2, "hob.local/c:v1")}, budget: 1, keep: []string{"hob.local/team/*"}}, "c"},
	} {
		t.Run(name, func(t *testing.T) {
			c.g.before = base
			if got := c.g.victims(); !slices.Equal(got, strings.Fields(c.want)) {
				t.Errorf("%v go, want %s", got, c.want)
			}
		})
	}
	young := garbage{images: []candidate{img("a", 1, ""), img("b", 3, "")}, before: base.Add(-2 * time.Hour)}
	if got := young.victims(); !slices.Equal(got, []string{"b"}) {
		t.Errorf("%v go, want b: a was used within the grace time", got)
	}
}
