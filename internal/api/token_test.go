package api_test

import (
	"encoding/base64"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"hob/faas"
	"hob/internal/api"
)

const tokenKey = "a key of thirty-two bytes, or so"

// token is one of these claims, signed with key.
func token(t *testing.T, method jwt.SigningMethod, key any, claims jwt.MapClaims, header ...string) string {
	t.Helper()
	made := jwt.NewWithClaims(method, claims)
	for _, name := range header {
		made.Header[name] = []string{"x"}
	}
	signed, err := made.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return "Bearer " + signed
}

func TestTokenIsTakenOrRefusedWithTheReason(t *testing.T) {
	now := time.Now().Unix()
	hs256, key := jwt.SigningMethodHS256, []byte(tokenKey)
	good := token(t, hs256, key, jwt.MapClaims{"exp": now + 3600, "iat": now, "nbf": now - 60})
	part := strings.Split(strings.TrimPrefix(good, "Bearer "), ".")
	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","typ":"JWT"}`))
	const (
		missing = "a token is wanted"
		badly   = "the token is no JSON Web Token"
		unknown = "the token is not signed by HS256 with the key that is wanted"
		expired = "the token has expired"
		early   = "the token is not valid yet"
		future  = "the token was issued in the future"
		odd     = "the token is not one that can be checked"
	)
	for name, tt := range map[string]struct {
		header []string
		want   string // beginning of the reason; "": it is taken
	}{
		"as the command line of IronFunctions makes it": {[]string{good}, ""},
		"scheme in lower case":                          {[]string{strings.Replace(good, "B", "b", 1)}, ""},
		"blanks around":                                 {[]string{strings.Replace(good, " ", "   ", 1) + " "}, ""},
		"no times":                                      {[]string{token(t, hs256, key, nil)}, ""},
		"other claims":                                  {[]string{token(t, hs256, key, jwt.MapClaims{"sub": "me", "aud": "x", "admin": true})}, ""},
		"no header":                                     {nil, missing},
		"two headers":                                   {[]string{good, good}, missing},
		"empty header":                                  {[]string{""}, missing},
		"another scheme":                                {[]string{"Basic dTpw"}, missing},
		"token alone":                                   {[]string{strings.TrimPrefix(good, "Bearer ")}, missing},
		"no token":                                      {[]string{"Bearer "}, badly},
		"garbage":                                       {[]string{"Bearer garbage"}, badly},
		"dots":                                          {[]string{"Bearer ..."}, badly},
		"no base64":                                     {[]string{"Bearer a.b!.c"}, badly},
		"two tokens":                                    {[]string{good + ", " + good}, badly},
		"claims that are no object":                     {[]string{"Bearer " + part[0] + "." + base64.RawURLEncoding.EncodeToString([]byte("1")) + "." + part[2]}, badly},
		"time that is a word":                           {[]string{token(t, hs256, key, jwt.MapClaims{"exp": "tomorrow"})}, badly},
		"another key":                                   {[]string{token(t, hs256, []byte("another"), nil)}, unknown},
		"no key":                                        {[]string{token(t, hs256, []byte{}, nil)}, unknown},
		"no signature":                                  {[]string{"Bearer " + part[0] + "." + part[1] + "."}, unknown},
		"claims of another token":                       {[]string{"Bearer " + part[0] + "." + strings.Split(token(t, hs256, key, nil), ".")[1] + "." + part[2]}, unknown},
		"algorithm none":                                {[]string{token(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, nil)}, unknown},
		"algorithm none over another's signature": {[]string{"Bearer " + none + "." + part[1] + "." + part[2]}, unknown},
		"algorithm HS384":                         {[]string{token(t, jwt.SigningMethodHS384, key, nil)}, unknown},
		"algorithm HS512":                         {[]string{token(t, jwt.SigningMethodHS512, key, nil)}, unknown},
		"expired":                                 {[]string{token(t, hs256, key, jwt.MapClaims{"exp": now - 1})}, expired},
		"expired in 1970":                         {[]string{token(t, hs256, key, jwt.MapClaims{"exp": 0})}, expired},
		"not valid yet":                           {[]string{token(t, hs256, key, jwt.MapClaims{"nbf": now + 60})}, early},
		"issued in the future":                    {[]string{token(t, hs256, key, jwt.MapClaims{"iat": now + 60})}, future},
		"expired and of another key":              {[]string{token(t, hs256, []byte("another"), jwt.MapClaims{"exp": now - 1})}, unknown},
		"critical header":                         {[]string{token(t, hs256, key, nil, "crit")}, odd},
	} {
		h := http.Header{}
		if tt.header != nil {
			h["Authorization"] = tt.header
		}
		err := api.CheckToken(h, tokenKey)
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.HasPrefix(err.Error(), tt.want) || faas.KindOf(err) != faas.Denied) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
	if err := api.CheckToken(http.Header{}, ""); err != nil {
		t.Errorf("without a key: %v", err)
	}
}
