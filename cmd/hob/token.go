package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/spf13/cobra"

	"hob/faas"
	"hob/internal/config"
)

// tokenFlags are those of hob token.
type tokenFlags struct {
	keyFile string
	expires time.Duration
	subject string
}

func newToken(c *cli) *cobra.Command {
	var f tokenFlags
	cmd := &cobra.Command{
		Use:   "token [--key-file FILE]",
		Short: "make a token for a server that wants one",
		Long: `Print a token (a JSON Web Token, HS256) that names whoever has it to a server with
the setting jwt-auth-key, or to a trigger or route with a key of its own. The key
is in --key-file; without it, it is that of "hob serve" on this machine: in
JWT_AUTH_KEY, HOB_JWT_AUTH_KEY or the configuration file.

A token lets do all that the key locks, until it expires. It cannot be taken back
but by another key.`,
		Example: `  hob token --expires 8h >token
  hob context create work --server https://hob.example.com --token-file token
  hob token --key-file route.key --subject ann --expires 720h
  docker login --username any --password "$(hob token)" hob.example.com`,
		Args: exactly(0),
		RunE: func(*cobra.Command, []string) error { return runToken(c, f) },
	}
	cmd.Flags().StringVar(&f.keyFile, "key-file", "", "`file` with the key; an end of line at its end is no part of it, \"-\" is standard input")
	cmd.Flags().DurationVar(&f.expires, "expires", time.Hour, "how long the token is good; 0 is for ever")
	cmd.Flags().StringVar(&f.subject, "subject", "", "`name` of whom the token is for, which nothing looks at")
	return cmd
}

func runToken(c *cli, f tokenFlags) error {
	if f.expires < 0 {
		return faas.Errorf(faas.Invalid, "--expires %v: the token would have expired already", f.expires)
	}
	key, err := c.tokenKey(f.keyFile)
	if err != nil {
		return err
	}
	claims := jwt.RegisteredClaims{Subject: f.subject} // no iat: the clock of the server may be behind
	out := struct {
		Token   string     `json:"token"`
		Expires *time.Time `json:"expires,omitempty"`
	}{}
	if f.expires > 0 {
		end := time.Now().Add(f.expires).Truncate(time.Second)
		claims.ExpiresAt, out.Expires = jwt.NewNumericDate(end), &end
	}
	if out.Token, err = jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString(key); err != nil {
		return err
	}
	if c.json {
		return c.printJSON(out)
	}
	_, err = fmt.Fprintln(c.Stdout, out.Token)
	return printed(err)
}

// tokenKey is the key in file, "-" being standard input; "": that of a server here.
func (c *cli) tokenKey(file string) ([]byte, error) {
	if file == "" {
		cfg, err := config.Load(nil, c.Environ())
		if err != nil {
			return nil, err
		}
		if cfg.JWTAuthKey == "" {
			return nil, faas.Errorf(faas.Invalid, "no key to sign a token with: give --key-file, or set JWT_AUTH_KEY")
		}
		return []byte(cfg.JWTAuthKey), nil
	}
	in := c.Stdin
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, faas.Errorf(faas.NotFound, "read the key: %w", err)
		}
		defer f.Close()
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, maxKey+1))
	key := strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r")
	switch {
	case err != nil:
		return nil, fmt.Errorf("read the key: %w", err)
	case len(b) > maxKey:
		return nil, faas.Errorf(faas.Invalid, "read the key: it is over the limit of %v", faas.Bytes(maxKey))
	case key == "":
		return nil, faas.Errorf(faas.Invalid, "read the key: there is none in %s", file)
	}
	return []byte(key), nil
}

// maxKey is the most bytes of a file with a key, as the server takes them.
const maxKey = 1 << 20
