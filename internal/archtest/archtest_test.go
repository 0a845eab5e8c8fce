// Package archtest checks the rules of the architecture that a test can check:
// who may import whom, who may make system calls, and that every package and
// every name of the shared contracts says what it is.
//
// It reads the source itself and never asks the go command: the test cache
// watches the files a test opens, but not what a child process reads.
package archtest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "hob/"

// layers lists every package of the module with the packages of the module that
// its code may import. A package that is not listed may not exist; one that is
// listed need not exist yet. A change here is a change of the design: say why in
// docs/adr.
var layers = map[string][]string{
	// 0: what everybody may know.
	"faas":                   {},
	"internal/linux":         {},
	"internal/sandbox":       {"faas"},
	"internal/store":         {"faas"},
	"internal/image/content": {},
	"internal/image/layer":   {"internal/image/content", "internal/linux"},
	"internal/metric":        {},
	"internal/trace":         {},
	"internal/testenv":       {"internal/linux"},
	"internal/archtest":      {},
	"internal/plainserver":   {},

	// 1: parts that know nothing of each other.
	"internal/image":               {"faas", "internal/image/content", "internal/image/layer"},
	"internal/capacity":            {"faas"},
	"internal/protocol":            {"faas"},
	"internal/logs":                {"faas"},
	"internal/network":             {"faas", "internal/linux"},
	"internal/sandbox/ns":          {"faas", "internal/sandbox", "internal/linux", "internal/network"},
	"internal/sandbox/oci":         {"faas", "internal/sandbox", "internal/linux", "internal/network"},
	"internal/sandbox/fake":        {"faas", "internal/sandbox", "internal/linux"},
	"internal/sandbox/sandboxtest": {"faas", "internal/sandbox", "internal/linux", "internal/network", "internal/testenv", "internal/sandbox/sandboxtest/program"},
	"internal/store/sqlite":        {"faas", "internal/store"},
	"internal/store/memory":        {"faas", "internal/store"},
	"internal/store/postgres":      {"faas", "internal/store"},
	"internal/store/storetest":     {"faas", "internal/store"},
	"internal/api":                 {"faas"},
	"internal/config":              {"faas"},
	"client":                       {"faas"},

	// Programs that run inside the sandboxes of sandboxtest.
	"internal/sandbox/sandboxtest/prog":    {"internal/sandbox/sandboxtest/program"},
	"internal/sandbox/sandboxtest/program": {},

	// 2: who runs, and how a sandbox starts.
	"internal/pool":   {"faas"},
	"internal/launch": {"faas", "internal/image", "internal/sandbox", "internal/protocol", "internal/logs", "internal/secret"},

	// 3: the life of a call, and what stands beside it.
	"internal/invoke":         {"faas", "internal/pool", "internal/store"},
	"internal/dispatch":       {"faas", "internal/store"},
	"internal/deliver":        {"faas", "internal/store"},
	"internal/catalog":        {"faas", "internal/store"},
	"internal/access":         {"faas", "internal/store"},
	"internal/secret":         {"faas", "internal/store"},
	"internal/build":          {"faas", "internal/image", "internal/linux"},
	"internal/build/funcfile": {"faas", "internal/image", "internal/linux"},
	"internal/doctor":         {"faas", "internal/image", "internal/linux", "internal/network", "internal/sandbox/oci"},

	// 4: the edges.
	"internal/api/core":      edge(),
	"internal/api/fnv2":      edge(),
	"internal/api/ironv1":    edge(),
	"internal/api/hyperfunc": edge(),
	"internal/api/registry":  edge("internal/image/content"),
	"internal/web":           {"client", "faas"},

	// 4: what several edges do in the same way.
	"internal/api/buffered":   edge(),
	"internal/api/definition": edge(),
	"internal/api/records":    edge(),

	// 5, 6: the whole.
	"internal/daemon": {"*"},
	"cmd/hob":         {"client", "faas", "internal/config", "internal/build", "internal/build/funcfile", "internal/doctor", "internal/daemon", "internal/plainserver"},
}

// edge is what an HTTP API may import: the things it speaks about, never who
// carries them out.
func edge(more ...string) []string {
	return append(more, "faas", "internal/api", "internal/api/buffered", "internal/api/definition", "internal/api/records", "internal/catalog", "internal/invoke", "internal/store", "internal/image", "internal/logs", "internal/access")
}

// everywhere may be imported from layer 1 up.
var everywhere = []string{"internal/metric", "internal/trace"}

// bottom is layer 0, which may not import what is everywhere.
var bottom = []string{"faas", "internal/linux", "internal/sandbox", "internal/store", "internal/image/content", "internal/image/layer", "internal/metric", "internal/trace"}

// daemonVerbs are the files of cmd/hob that may start a daemon in the process.
var daemonVerbs = []string{"serve.go", "run.go", "test.go"}

// callers may use the numbers and calls of Linux; values are the reason. The
// package syscall is allowed for signals and errno everywhere.
var callers = map[string]string{
	"internal/linux":                       "it is the package that makes system calls",
	"internal/network":                     "netlink structures",
	"internal/image/layer":                 "a layer is unpacked by descriptors: openat2, fchownat, extended attributes",
	"internal/image/content":               "locks and preallocation of files",
	"internal/sandbox/ns":                  "numbers of clone and mount flags, which it hands to linux",
	"internal/sandbox/sandboxtest":         "it makes what attacks are after: devices, queues, shared memory",
	"internal/sandbox/sandboxtest/prog":    "it tries inside a sandbox what it may not do",
	"internal/sandbox/sandboxtest/program": "the same",
	"internal/plainserver":                 "reads and writes past Go's scheduler: what is measured is the way to it",
	"internal/sandbox/oci":                 "numbers of flags, which it hands to linux",
}

// harmless reports whether a name of package syscall says nothing to the kernel:
// signals, errors, exit states.
func harmless(name string) bool {
	return strings.HasPrefix(name, "SIG") || strings.HasPrefix(name, "E") && name == strings.ToUpper(name) ||
		slices.Contains([]string{"Errno", "Signal", "WaitStatus", "Rusage", "Stat_t", "SysProcAttr"}, name)
}

// mayCall are the calls of package syscall that single packages make, besides
// callers. Each has its reason.
var mayCall = map[string][]string{
	"internal/daemon":  {"Flock", "LOCK_EX", "LOCK_NB"},               // one daemon for a data directory
	"internal/doctor":  {"Statfs", "Statfs_t"},                        // the free space of the data directory
	"internal/testenv": {"Flock", "LOCK_EX", "O_NOFOLLOW", "Getpgrp"}, // leak checks
}

func TestLayers(t *testing.T) {
	for pkg, files := range parse(t) {
		allowed, ok := layers[pkg]
		if !ok {
			t.Errorf("%s is in no layer: give it a line in the design and one in layers", pkg)
		}
		if !slices.Contains(bottom, pkg) {
			allowed = append(slices.Clone(allowed), everywhere...)
		}
		for _, f := range files {
			if f.test {
				continue
			}
			for _, imp := range f.imports() {
				dep, ours := strings.CutPrefix(imp, module)
				switch {
				case !ours || slices.Contains(allowed, dep):
				case slices.Contains(allowed, "*") && !strings.HasPrefix(dep, "cmd/"):
				default:
					t.Errorf("%s: %s imports %s; it may import %v", f.name, pkg, dep, allowed)
				}
				if pkg == "cmd/hob" && dep == "internal/daemon" && !slices.Contains(daemonVerbs, path.Base(f.name)) {
					t.Errorf("%s: only %v start a daemon in this process", f.name, daemonVerbs)
				}
			}
		}
	}
}

// TestNothingImportsTestsButTests keeps helpers of tests out of the binary.
func TestNothingImportsTestsButTests(t *testing.T) {
	helpers := []string{"testing", module + "internal/testenv", module + "internal/store/storetest", module + "internal/sandbox/sandboxtest"}
	for pkg, files := range parse(t) {
		if pkg == "internal/testenv" || strings.HasSuffix(pkg, "test") {
			continue
		}
		for _, f := range files {
			for _, imp := range f.imports() {
				if !f.test && slices.Contains(helpers, imp) {
					t.Errorf("%s imports %s, which is for tests", f.name, imp)
				}
			}
		}
	}
}

// TestVocabularyNeedsOnlyTheStandardLibrary lets every package import faas.
func TestVocabularyNeedsOnlyTheStandardLibrary(t *testing.T) {
	for _, f := range parse(t)["faas"] {
		for _, imp := range f.imports() {
			if first, _, _ := strings.Cut(imp, "/"); !f.test && strings.Contains(first, ".") {
				t.Errorf("%s imports %s", f.name, imp)
			}
		}
	}
}

func TestOnlyOnePackageMakesSystemCalls(t *testing.T) {
	for pkg, files := range parse(t) {
		if callers[pkg] != "" {
			continue
		}
		for _, f := range files {
			if f.test {
				continue
			}
			for _, imp := range f.imports() {
				if imp == "golang.org/x/sys/unix" || imp == "unsafe" && pkg != "internal/linux" {
					t.Errorf("%s imports %s; these may: %v", f.name, imp, callers)
				}
			}
			ast.Inspect(f.File, func(n ast.Node) bool {
				if sel, ok := n.(*ast.SelectorExpr); ok && isPackage(sel, "syscall") &&
					!harmless(sel.Sel.Name) && !slices.Contains(mayCall[pkg], sel.Sel.Name) {
					t.Errorf("%s uses syscall.%s; system calls are made by internal/linux", f.name, sel.Sel.Name)
				}
				return true
			})
		}
	}
}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	for pkg, files := range parse(t) {
		if !slices.ContainsFunc(files, func(f file) bool { return f.Doc != nil }) {
			t.Errorf("%s has no package comment", pkg)
		}
	}
}

// TestOnlyMainStartsAndStops keeps behaviour where a reader looks for it: what
// happens at start is called by name, and only a command may end the process.
func TestOnlyMainStartsAndStops(t *testing.T) {
	for _, files := range parse(t) {
		for _, f := range files {
			ast.Inspect(f.File, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.FuncDecl:
					if n.Name.Name == "init" && n.Recv == nil {
						t.Errorf("%s has an init function", f.name)
					}
				case *ast.SelectorExpr:
					if isPackage(n, "os") && n.Sel.Name == "Exit" && f.Name.Name != "main" && !f.test {
						t.Errorf("%s calls os.Exit", f.name)
					}
				}
				return true
			})
		}
	}
}

// TestOnlyTestenvSkips: a skip anywhere else would pass where tests must run.
func TestOnlyTestenvSkips(t *testing.T) {
	for pkg, files := range parse(t) {
		if pkg == "internal/testenv" {
			continue
		}
		for _, f := range files {
			ast.Inspect(f.File, func(n ast.Node) bool {
				call, ok := n.(*ast.CallExpr)
				if !ok {
					return true
				}
				sel, ok := call.Fun.(*ast.SelectorExpr)
				if ok && slices.Contains([]string{"Skip", "Skipf", "SkipNow"}, sel.Sel.Name) {
					if x, ok := sel.X.(*ast.Ident); ok && slices.Contains([]string{"t", "b", "f", "tb"}, x.Name) {
						t.Errorf("%s calls %s.%s: use testenv, which fails where tests must run", f.name, x.Name, sel.Sel.Name)
					}
				}
				return true
			})
		}
	}
}

// TestContractsExplainEveryName: what many packages share is read without its code.
func TestContractsExplainEveryName(t *testing.T) {
	pkgs := parse(t)
	for _, pkg := range []string{"faas", "internal/sandbox", "internal/store", "client"} {
		for _, f := range pkgs[pkg] {
			if f.test {
				continue
			}
			for _, decl := range f.Decls {
				switch d := decl.(type) {
				case *ast.FuncDecl:
					if d.Name.IsExported() && exportedReceiver(d) && d.Doc == nil && !selfEvident(d) {
						t.Errorf("%s: %s has no comment", f.name, d.Name.Name)
					}
				case *ast.GenDecl:
					for _, spec := range d.Specs {
						undocumented(t, f, d, spec)
					}
				}
			}
		}
	}
}

// undocumented reports exported types, constants and variables without a
// comment, of their own or of their group.
func undocumented(t *testing.T, f file, d *ast.GenDecl, spec ast.Spec) {
	switch s := spec.(type) {
	case *ast.TypeSpec:
		if s.Name.IsExported() && d.Doc == nil && s.Doc == nil {
			t.Errorf("%s: type %s has no comment", f.name, s.Name.Name)
		}
	case *ast.ValueSpec:
		for _, name := range s.Names {
			if name.IsExported() && d.Doc == nil && s.Doc == nil && s.Comment == nil && !ofDocumentedType(f, s) {
				t.Errorf("%s: %s has no comment", f.name, name.Name)
			}
		}
	}
}

// ofDocumentedType: the values of a type are explained by the type's comment.
func ofDocumentedType(f file, s *ast.ValueSpec) bool {
	name, ok := s.Type.(*ast.Ident)
	return ok && name.IsExported()
}

// selfEvident are the methods whose meaning the language gives.
func selfEvident(d *ast.FuncDecl) bool {
	return d.Recv != nil && slices.Contains([]string{"Error", "Unwrap", "String"}, d.Name.Name)
}

func exportedReceiver(d *ast.FuncDecl) bool {
	if d.Recv == nil {
		return true
	}
	typ := d.Recv.List[0].Type
	if star, ok := typ.(*ast.StarExpr); ok {
		typ = star.X
	}
	name, ok := typ.(*ast.Ident)
	return ok && name.IsExported()
}

func isPackage(sel *ast.SelectorExpr, name string) bool {
	x, ok := sel.X.(*ast.Ident)
	return ok && x.Name == name
}

// file is a source file of the module.
type file struct {
	*ast.File
	name string // from the root of the module
	test bool   // it belongs to a test
}

func (f file) imports() []string {
	var all []string
	for _, spec := range f.Imports {
		imp, _ := strconv.Unquote(spec.Path.Value)
		all = append(all, imp)
	}
	return all
}

// parse reads every file of the module, by package. Examples are modules of
// their own, and testdata holds no code of ours.
func parse(t *testing.T) map[string][]file {
	pkgs := make(map[string][]file)
	root := os.DirFS("../..")
	err := fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && name != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || slices.Contains([]string{"examples", "build", "dist"}, name)) {
			return fs.SkipDir
		}
		if d.IsDir() || path.Ext(name) != ".go" {
			return nil
		}
		src, err := fs.ReadFile(root, name)
		if err != nil {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, src, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		pkg := path.Dir(name)
		pkgs[pkg] = append(pkgs[pkg], file{File: f, name: name, test: strings.HasSuffix(name, "_test.go")})
		return nil
	})
	if err != nil || len(pkgs) == 0 {
		t.Fatalf("found %d packages: %v", len(pkgs), err)
	}
	return pkgs
}
