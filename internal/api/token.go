package api

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/golang-jwt/jwt/v5"

	"hob/faas"
)

// tokens reads JSON Web Tokens of the one algorithm that is taken: a token that could
// choose another would choose its own key.
var tokens = jwt.NewParser(jwt.WithValidMethods([]string{jwt.SigningMethodHS256.Name}), jwt.WithIssuedAt())

// CheckToken reports whether header bears a JSON Web Token that is signed by HS256 with
// key, and whose times exp, nbf and iat, as far as it has them, are those of now. The
// error is Denied, and repeats nothing of the token. With an empty key nothing is asked.
func CheckToken(header http.Header, key string) error {
	if key == "" {
		return nil
	}
	given := header["Authorization"]
	if len(given) != 1 {
		return faas.Errorf(faas.Denied, "a token is wanted, in one header Authorization: Bearer TOKEN")
	}
	scheme, token, _ := strings.Cut(given[0], " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return faas.Errorf(faas.Denied, "a token is wanted: the header Authorization has to be Bearer TOKEN")
	}
	_, err := tokens.ParseWithClaims(strings.TrimSpace(token), &jwt.RegisteredClaims{}, func(t *jwt.Token) (any, error) {
		if t.Header["crit"] != nil { // what it names must be understood (RFC 7515, 4.1.11)
			return nil, fmt.Errorf("critical headers")
		}
		return []byte(key), nil
	})
	if err == nil {
		return nil
	}
	for _, why := range refusals {
		if errors.Is(err, why.is) {
			return faas.Errorf(faas.Denied, "%s", why.message)
		}
	}
	return faas.Errorf(faas.Denied, "the token is not one that can be checked")
}

// refusals are the reasons for which a token is refused, the first that fits.
var refusals = []struct {
	is      error
	message string
}{
	{jwt.ErrTokenMalformed, "the token is no JSON Web Token"},
	{jwt.ErrTokenSignatureInvalid, "the token is not signed by HS256 with the key that is wanted"},
	{jwt.ErrTokenExpired, "the token has expired"},
	{jwt.ErrTokenNotValidYet, "the token is not valid yet"},
	{jwt.ErrTokenUsedBeforeIssued, "the token was issued in the future: is a clock wrong?"},
}
