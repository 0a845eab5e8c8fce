package api

import (
	"net/http"
	"slices"
	"strings"

	"github.com/rs/cors"
)

// CORS says which web pages of other origins may read the answers of the APIs and
// call functions; those of origins that are named one by one may manage the node,
// too, where Guard has it. Without origins there are none.
type CORS struct {
	Origins []string // "https://ui.example.org", "https://*.example.org", or "*" for all
	Headers []string // that their requests may have, besides Origin, Content-Length and Content-Type
}

// corsMaxAge is how many seconds a browser may remember what it was told.
const corsMaxAge = 12 * 60 * 60

func (c CORS) rules() *cors.Cors {
	return cors.New(cors.Options{
		AllowedOrigins: c.Origins,
		AllowedMethods: []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodHead, http.MethodDelete},
		AllowedHeaders: slices.Concat([]string{"Origin", "Content-Length", "Content-Type"}, c.Headers),
		MaxAge:         corsMaxAge,
	})
}

// Wrap answers what browsers ask before they send a request of another origin, and
// tells them of the answers to the others who may read them. A request of another
// origin is carried out all the same, if nothing behind Wrap refuses it.
func (c CORS) Wrap(next http.Handler) http.Handler {
	if len(c.Origins) == 0 {
		return next
	}
	h := c.rules().Handler(next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if asked := r.Header["Access-Control-Request-Headers"]; asked != nil && r.Method == http.MethodOptions {
			names := strings.Split(strings.ToLower(strings.Join(asked, ",")), ",") // as browsers write it; programs do not always
			for i, name := range names {
				names[i] = strings.TrimSpace(name)
			}
			slices.Sort(names)
			r.Header["Access-Control-Request-Headers"] = []string{strings.Join(slices.Compact(names), ",")}
		}
		h.ServeHTTP(w, r)
	})
}

// trusts returns whether a request comes from a page of one of the origins that are
// named. One with a * in it names nobody: who may read is not yet who may manage.
func (c CORS) trusts() func(*http.Request) bool {
	named := slices.DeleteFunc(slices.Clone(c.Origins), func(origin string) bool { return strings.Contains(origin, "*") })
	if len(named) == 0 {
		return func(*http.Request) bool { return false }
	}
	rules := CORS{Origins: named}.rules()
	return func(r *http.Request) bool { return r.Header.Get("Origin") != "" && rules.OriginAllowed(r) }
}
