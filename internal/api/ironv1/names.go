package ironv1

import (
	"net/url"
	"path"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"hob/faas"
	"hob/internal/api/definition"
)

// maxAppName is the most characters of the name of an app that is made here. One that
// was made elsewhere may have more.
const maxAppName = 30

func checkAppName(name string) error {
	switch {
	case name == "":
		return invalid("Missing app name")
	case utf8.RuneCountInString(name) > maxAppName:
		return invalid("App name must be 30 characters or less")
	case !definition.IsWord(name):
		return invalid("Invalid app name")
	}
	return nil
}

// cleanPath is the path of a route as it is kept: that of a file, from the root on,
// out of which no ".." leads.
func cleanPath(p string) string { return path.Clean("/" + p) }

// checkPath reports whether a route can have this path; dynamic says that parameters
// in it are such.
func checkPath(p string, dynamic bool) error {
	switch u, err := url.Parse(p); {
	case p == "":
		return invalid("Missing route Path")
	case err != nil:
		return invalid("Path malformed")
	case !dynamic && strings.Contains(u.Path, ":"):
		return invalid("Dynamic URL is not allowed")
	case !strings.HasPrefix(p, "/"):
		return invalid("Invalid Path format")
	case len(p) > faas.MaxSource:
		return faas.Errorf(faas.Invalid, "the path of the route has %d bytes, over the limit of %d", len(p), faas.MaxSource)
	}
	return nil
}

// rootName is the name of the function of the route "/".
const rootName = "root"

// maxName leaves room for a number behind a name.
const maxName = faas.MaxNameLength - 10

// functionName is the name of the function of a new route with this path, which is
// clean; n counts from 1 while such names are taken.
func functionName(path string, n int) string {
	name := strings.Map(func(r rune) rune {
		switch {
		case r == '/':
			return '.'
		case r != utf8.RuneError && (unicode.IsLetter(r) || unicode.IsDigit(r) || strings.ContainsRune("-_.", r)):
			return r
		}
		return '_'
	}, strings.TrimPrefix(path, "/"))
	if name == "" {
		name = rootName
	}
	if runes := []rune(name); len(runes) > maxName {
		name = string(runes[:maxName])
	}
	if n > 1 {
		name += "-" + strconv.Itoa(n)
	}
	return name
}
