package archtest

import (
	"io/fs"
	"os"
	"path"
	"regexp"
	"strings"
	"testing"
)

var link = regexp.MustCompile(`\]\(([^)#\s]+)[^)]*\)`)

// TestLinksOfDocumentsLeadSomewhere follows the relative links of every page.
func TestLinksOfDocumentsLeadSomewhere(t *testing.T) {
	root := os.DirFS("../..")
	pages := 0
	err := fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && name != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || d.Name() == "root") {
			return fs.SkipDir
		}
		if path.Ext(name) != ".md" {
			return nil
		}
		pages++
		text, err := fs.ReadFile(root, name)
		if err != nil {
			return err
		}
		for _, m := range link.FindAllStringSubmatch(string(text), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			if to := path.Join(path.Dir(name), m[1]); !fs.ValidPath(to) {
				t.Errorf("%s leads out of the repository: %s", name, m[1])
			} else if _, err := fs.Stat(root, to); err != nil {
				t.Errorf("%s leads to %s, which is not there", name, m[1])
			}
		}
		return nil
	})
	if err != nil || pages == 0 {
		t.Fatalf("found %d pages: %v", pages, err)
	}
}
