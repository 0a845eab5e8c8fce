package protocol_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"hob/faas"
)

// TestLambdaTrigger is the table of events of HTTP requests and their answers.
func TestLambdaTrigger(t *testing.T) {
	for _, tt := range []struct {
		name, answer, contentType string
		status                    int
		header                    http.Header
		body                      string
		is                        error
		says                      string
	}{
		{name: "whole", answer: `{"statusCode":404,"headers":{"x-a":"b","Content-Type":"text/plain","Connection":"close","Hob-Start":"x","X-N":7,"Bad Name":"x","X-Bad":"a\nb"},"cookies":["a=1; Path=/","b=2"],"body":"not here"}`,
			status: 404, header: http.Header{"X-A": {"b"}, "Content-Type": {"text/plain"}, "Set-Cookie": {"a=1; Path=/", "b=2"}, "X-N": {"7"}, "Connection": nil, "Hob-Start": nil, "Bad Name": nil, "X-Bad": nil, "X-Amz-Function-Error": nil}, body: "not here"},
		{name: "several values", answer: `{"statusCode":"200","headers":{"X-A":"1"},"multiValueHeaders":{"X-A":["1","2"]}}`,
			status: 200, header: http.Header{"X-A": {"1", "2"}, "Content-Type": {"application/json"}}},
		{name: "base64", answer: `{"statusCode":200,"isBase64Encoded":true,"headers":{"content-type":"image/png"},"body":"AP8="}`, status: 200, body: "\x00\xff"},
		{name: "no content", answer: `{"statusCode":204}`, status: 204},
		{name: "nulls", answer: `{"statusCode":200,"headers":null,"body":null,"cookies":null,"isBase64Encoded":null}`, status: 200},
		{name: "an object", answer: `{"a":1}`, status: 200, header: http.Header{"Content-Type": {"application/json"}}, body: `{"a":1}`},
		{name: "a string", answer: `"hi"`, status: 200, header: http.Header{"Content-Type": {"application/json"}}, body: `"hi"`},
		{name: "an image", answer: "\xff", contentType: "image/png", status: 200, header: http.Header{"Content-Type": {"image/png"}}, body: "\xff"},
		{name: "no JSON", answer: "hi", is: faas.ErrMalformed, says: `something that is not JSON: "hi"`},
		{name: "nothing", answer: "", is: faas.ErrMalformed, says: "not JSON"},
		{name: "a status that is none", answer: `{"statusCode":42}`, is: faas.ErrMalformed, says: "statusCode 42, which is not between 200 and 599"},
		{name: "a status that is a word", answer: `{"statusCode":"fine"}`, is: faas.ErrMalformed, says: `statusCode "fine"`},
		{name: "a body that is an object", answer: `{"statusCode":200,"body":{}}`, is: faas.ErrMalformed, says: "the body of the function's answer is not a string"},
		{name: "a body that is not base64", answer: `{"statusCode":200,"isBase64Encoded":true,"body":"?"}`, is: faas.ErrMalformed, says: "not base64"},
		{name: "headers that are none", answer: `{"statusCode":200,"headers":[]}`, is: faas.ErrMalformed, says: "headers of the function's answer"},
		{name: "base64 that is a word", answer: `{"statusCode":200,"isBase64Encoded":"yes"}`, is: faas.ErrMalformed, says: "neither true nor false"},
		{name: "a stream without a head", answer: "{}", contentType: "application/vnd.awslambda.http-integration-response", is: faas.ErrMalformed, says: "ends before the end of its head"},
		{name: "a stream with an endless head", answer: strings.Repeat("x", 65<<10), contentType: "application/vnd.awslambda.http-integration-response", is: faas.ErrMalformed, says: "no end of its head, 8 zero bytes, in its first 64 KB"},
		{name: "a stream with a broken head", answer: "x\x00\x00\x00\x00\x00\x00\x00\x00", contentType: "application/vnd.awslambda.http-integration-response", is: faas.ErrMalformed, says: "the head of the function's answer is not a JSON object"},
		{name: "a stream with nothing behind its head", answer: "{}\x00\x00\x00\x00\x00\x00\x00\x00", contentType: "application/vnd.awslambda.http-integration-response", status: 200, header: http.Header{"Content-Type": {"application/octet-stream"}}},
	} {
		t.Run(strings.ReplaceAll(tt.name, " ", "_"), func(t *testing.T) {
			c := lambda(t, func(c *runtimeClient, e event) { c.answer(e.id, tt.answer, "Content-Type: "+tt.contentType) })
			req := request("7")
			req.Route, req.Target, req.URL = "/x", "/x", "http://h/x"
			rec := httptest.NewRecorder()
			out, err := c.Exchange(t.Context(), req, rec)
			if !out.Keep || !errors.Is(err, tt.is) || tt.is != nil && (!strings.Contains(err.Error(), tt.says) || faas.KindOf(err) != faas.FuncFailed) {
				t.Errorf("%+v, %v, want %v: %s", out, err, tt.is, tt.says)
			}
			if tt.is == nil && (rec.Code != tt.status || out.Status != tt.status || rec.Body.String() != tt.body) {
				t.Errorf("status %d, %q, want %d, %q", rec.Code, rec.Body, tt.status, tt.body)
			}
			for name, want := range tt.header {
				if got := rec.Header()[name]; !slices.Equal(got, want) {
					t.Errorf("%s: %q, want %q", name, got, want)
				}
			}
		})
	}
}

func TestLambdaEventOfAnHTTPRequest(t *testing.T) {
	c := lambda(t, func(c *runtimeClient, e event) {
		b, _ := json.Marshal(map[string]any{"statusCode": 200, "body": e.read()})
		c.answer(e.id, string(b))
	})
	req := request("a b")
	req.Method, req.URL, req.Route, req.Target = "PUT", "https://shop.example:8443/t/shop/pets/7?q=1&q=%20&r", "/pets/:id", "/pets/7?q=1&q=%20&r"
	req.Params, req.Caller = map[string]string{"id": "7"}, "192.0.2.1"
	req.Header = http.Header{"User-Agent": {"curl/8"}, "Cookie": {"a=1; b=2", "c=3"}, "X-Two": {"1", "2"}, "Content-Type": {"text/plain"}, "Connection": {"X-Hop"}, "X-Hop": {"1"},
		"X-Forwarded-For": {"198.51.100.7"}, "X-Amzn-Trace-Id": {"Root=1-2-3"}, "Fn-Call-Id": {"fake"}}
	rec := httptest.NewRecorder()
	if _, err := c.Exchange(t.Context(), req, rec); err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(rec.Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	about := got["requestContext"].(map[string]any)
	at, err := time.Parse("02/Jan/2006:15:04:05 -0700", about["time"].(string))
	if epoch := time.UnixMilli(int64(about["timeEpoch"].(float64))); err != nil || at.Unix() != epoch.Unix() || time.Since(epoch) > time.Hour {
		t.Errorf("time %v, %v", about["time"], about["timeEpoch"])
	}
	delete(about, "time")
	delete(about, "timeEpoch")
	want := `{"body":"a b","cookies":["a=1","b=2","c=3"],"headers":{"content-length":"3","content-type":"text/plain","host":"shop.example:8443","user-agent":"curl/8",` +
		`"x-amzn-trace-id":"Root=1-2-3","x-forwarded-for":"198.51.100.7, 192.0.2.1","x-forwarded-port":"8443","x-forwarded-proto":"https","x-two":"1,2"},"isBase64Encoded":false,` +
		`"pathParameters":{"id":"7"},"queryStringParameters":{"q":"1, ","r":""},"rawPath":"/pets/7","rawQueryString":"q=1&q=%20&r",` +
		`"requestContext":{"accountId":"anonymous","apiId":"shop","domainName":"shop.example","domainPrefix":"shop","http":{"method":"PUT","path":"/pets/7","protocol":"HTTP/1.1","sourceIp":"192.0.2.1","userAgent":"curl/8"},` +
		`"requestId":"c1","routeKey":"$default","stage":"$default"},"routeKey":"$default","version":"2.0"}`
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.Encode(got)
	if strings.TrimSpace(b.String()) != want {
		t.Errorf("event %s\nwant  %s", b.String(), want)
	}
	for _, tt := range []struct{ contentType, encoding, body, want string }{
		{"application/json; charset=utf-8", "", `{}`, `{}`},
		{"application/problem+json", "", `{}`, `{}`},
		{"application/x-www-form-urlencoded", "", "a=b", "YT1i"}, // as AWS does
		{"", "", "a", "YQ=="},
		{"text/plain", "", "\xff", "/w=="},
		{"text/plain", "gzip", "a", "YQ=="},
	} {
		req := request(tt.body)
		req.Route, req.Header = "/x", http.Header{"Content-Type": {tt.contentType}, "Content-Encoding": {tt.encoding}}
		rec := httptest.NewRecorder()
		var got struct {
			Body            string
			IsBase64Encoded bool
		}
		if _, err := c.Exchange(t.Context(), req, rec); err != nil || json.Unmarshal(rec.Body.Bytes(), &got) != nil || got.Body != tt.want || got.IsBase64Encoded != (tt.body != tt.want) {
			t.Errorf("%+v: %+v, %v", tt, got, err)
		}
	}
}
