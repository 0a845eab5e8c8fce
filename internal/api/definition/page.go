package definition

import (
	"encoding/base64"
	"net/url"
	"strconv"
	"unicode/utf8"

	"hob/faas"
)

// A Page is which part of a list is wanted.
type Page struct {
	After string // what the page before ended with
	Limit int    // items; at least 1
}

// Items of one page.
const (
	defaultItems = 30
	maxItems     = 100
)

// PageOf reads per_page, and cursor with decode. What is no number of items means
// the default; a cursor that never was one is Invalid.
func PageOf(q url.Values, decode func(string) (string, bool)) (Page, error) {
	limit, err := strconv.Atoi(q.Get("per_page"))
	if err != nil || limit <= 0 {
		limit = defaultItems
	}
	after, ok := decode(q.Get("cursor"))
	if !ok {
		return Page{}, faas.Errorf(faas.Invalid, "Invalid cursor: use the next_cursor of the page before")
	}
	return Page{after, min(limit, maxItems)}, nil
}

// NameCursor is the cursor behind an item with this name.
func NameCursor(name string) string { return base64.RawURLEncoding.EncodeToString([]byte(name)) }

// DecodeName is the name in a cursor.
func DecodeName(cursor string) (string, bool) {
	name, err := base64.RawURLEncoding.DecodeString(cursor)
	return string(name), err == nil && utf8.Valid(name)
}
