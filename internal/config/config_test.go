package config_test

import (
	"cmp"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"hob/faas"
	"hob/internal/config"
)

var update = flag.Bool("update", false, "rewrite the tables in docs with what the code says now")

// load puts a configuration together from a file, an environment and a command
// line; each may be empty.
func load(t *testing.T, file string, env map[string]string, args ...string) (config.Config, string, error) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "hob.conf")
	if err := os.WriteFile(name, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	flags := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	config.Flags(flags)
	if err := flags.Parse(append([]string{"--config", name}, args...)); err != nil {
		return config.Config{}, name, err
	}
	var environ []string
	for key, val := range env {
		environ = append(environ, key+"="+val)
	}
	c, err := config.Load(flags, environ)
	return c, name, err
}

func TestLaterPlaceWinsAndIsNamed(t *testing.T) {
	c, name, err := load(t, "# ours\nmemory = 1g\ngrace = 5s\nlisten = 127.0.0.1:1\n",
		map[string]string{"HOB_GRACE": "6s", "HOB_LISTEN": "127.0.0.1:2"},
		"--listen=127.0.0.1:3")
	if err != nil {
		t.Fatal(err)
	}
	if c.Memory != faas.GB || c.Grace != 6*time.Second || c.Listen != "127.0.0.1:3" || c.Driver != "ns" {
		t.Errorf("got memory %v, grace %v, listen %s, driver %s", c.Memory, c.Grace, c.Listen, c.Driver)
	}
	for setting, want := range map[string]string{
		"memory": "file " + name + ":2",
		"grace":  "environment HOB_GRACE",
		"listen": "flag --listen",
		"driver": "default",
	} {
		if got := c.Origin(setting); got != want {
			t.Errorf("%s came from %q, want %q", setting, got, want)
		}
	}
}

func TestFlagOfAListAddsUpAndReplacesTheFile(t *testing.T) {
	c, _, err := load(t, "load = a.tar, b.tar\nhosts=one,two", nil, "--load=c.tar", "--load", "d.tar,e.tar", "--insecure")
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"c.tar", "d.tar", "e.tar"}; !slices.Equal(c.Load, want) {
		t.Errorf("load is %q, want %q", c.Load, want)
	}
	if want := []string{"one", "two"}; !slices.Equal(c.Hosts, want) {
		t.Errorf("hosts is %q, want %q", c.Hosts, want)
	}
	if !c.Insecure {
		t.Error("--insecure without a value is not true")
	}
}

func TestEntryOfAListHoldsSpaces(t *testing.T) {
	const networks = "db=allow 10.1.2.0/24:5432 [fd00::1]:5432/tcp,lan=open 192.168.0.0/16:*"
	for place, load := range map[string]func() (config.Config, string, error){
		"file":        func() (config.Config, string, error) { return load(t, "networks = "+networks+" # two", nil) },
		"environment": func() (config.Config, string, error) { return load(t, "", map[string]string{"HOB_NETWORKS": networks}) },
		"flags": func() (config.Config, string, error) {
			one, other, _ := strings.Cut(networks, ",")
			return load(t, "", nil, "--networks", one, "--networks="+other)
		},
	} {
		c, _, err := load()
		if err != nil {
			t.Fatal(err)
		}
		named, err := c.Named()
		if err != nil || len(named) != 2 || len(named["db"].Rules) != 2 || named["lan"].Mode != faas.NetworkOpen || value(t, c, "networks") != networks {
			t.Errorf("from the %s: %v, %v", place, named, err)
		}
		if err := c.Check(); err != nil {
			t.Errorf("from the %s: %v", place, err)
		}
	}
}

func TestProgramOfAnIsolationIsTheOneNamed(t *testing.T) {
	c, _, err := load(t, "runtimes = gvisor=/opt/bin/runsc", nil)
	if err != nil {
		t.Fatal(err)
	}
	programs, err := c.Programs()
	want := map[faas.Isolation]string{faas.IsolationGVisor: "/opt/bin/runsc", faas.IsolationRunc: "runc", faas.IsolationCrun: "crun"}
	if err != nil || !maps.Equal(programs, want) {
		t.Errorf("got %v, %v, want %v", programs, err, want)
	}
}

func TestWhatIsPrintedReadsBack(t *testing.T) {
	c, _, err := load(t, "memory = 1234567\ndata = \"/srv/a #1\"\nhosts = a,b\ngrace = 90m # long\njournal-age=0s\nfreeze-after = -1s\ncpus = 500m\nblanks = -1\nmax-waiting=7\nnetworks = db=allow 10.0.0.0/8:5432 a.lan:*, lan=open\nnetwork-bandwidth = 10m", nil)
	if err != nil {
		t.Fatal(err)
	}
	if c.Data != "/srv/a #1" || c.Grace != 90*time.Minute || c.FreezeAfter != -time.Second || c.CPUs != 500 || c.Blanks != -1 || c.MaxWaiting != 7 {
		t.Errorf("got data %q, grace %v, freeze-after %v, cpus %v, blanks %d, max-waiting %d", c.Data, c.Grace, c.FreezeAfter, c.CPUs, c.Blanks, c.MaxWaiting)
	}
	var printed strings.Builder
	if _, err := c.WriteTo(&printed); err != nil {
		t.Fatal(err)
	}
	again, _, err := load(t, printed.String(), nil)
	if err != nil {
		t.Fatalf("%v in:\n%s", err, printed.String())
	}
	for i, e := range again.Entries() {
		if want := c.Entries()[i]; e.Value != want.Value {
			t.Errorf("%s reads back as %q, was %q", e.Name, e.Value, want.Value)
		}
	}
}

func TestBrokenConfigurationNamesThePlace(t *testing.T) {
	for _, c := range []struct {
		name, file string
		env        map[string]string
		args       []string
		want       []string
	}{
		{"unknown setting", "\nmemroy = 1g", nil, nil, []string{"hob.conf:2:", `"memroy"`, "memory"}},
		{"bad size", "memory = lots", nil, nil, []string{"hob.conf:1:", "memory", `"lots"`, "64m"}},
		{"bad duration", "grace = soon", nil, nil, []string{"hob.conf:1:", "grace", `"soon"`}},
		{"negative duration", "grace = -1s", nil, nil, []string{"grace", `"-1s"`}},
		{"bad signed duration", "freeze-after = never", nil, nil, []string{"hob.conf:1:", "freeze-after", `"never"`, "-1s"}},
		{"bad number", "max-waiting = 1.5", nil, nil, []string{"max-waiting", `"1.5"`, "whole number"}},
		{"bad cpus", "cpus = all", nil, nil, []string{"cpus", `"all"`, "500m"}},
		{"bad boolean", "insecure = maybe", nil, nil, []string{"insecure", `"maybe"`}},
		{"given twice", "grace = 1s\ngrace = 2s", nil, nil, []string{"hob.conf:2:", "line 1"}},
		{"no equals sign", "grace 1s", nil, nil, []string{"hob.conf:1:", "name = value"}},
		{"open quotation", `data = "/srv`, nil, nil, []string{"hob.conf:1:", "no end"}},
		{"something behind", `data = "/srv" x`, nil, nil, []string{"hob.conf:1:", `"x"`}},
		{"too large", strings.Repeat("# comment\n", 200_000), nil, nil, []string{"over the limit of 1 MB"}},
		{"bad variable", "", map[string]string{"HOB_MEMORY": "x"}, nil, []string{"HOB_MEMORY", `"x"`}},
		{"bad flag", "", nil, []string{"--memory=x"}, []string{"--memory", `"x"`}},
		{"no such file", "", nil, []string{"--config=/does/not/exist"}, []string{"/does/not/exist"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, _, err := load(t, c.file, c.env, c.args...)
			if err == nil {
				t.Fatal("it was taken")
			}
			if len(c.args) == 0 && faas.KindOf(err) != faas.Invalid {
				t.Errorf("kind %q, want %q: %v", faas.KindOf(err), faas.Invalid, err)
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not say %q", err, want)
				}
			}
		})
	}
}

func TestCheckRefusesWhatCannotWork(t *testing.T) {
	for _, c := range []struct {
		name string
		set  func(*config.Config)
		kind faas.Kind
		want string
	}{
		{"defaults", func(c *config.Config) {}, faas.OK, ""},
		{"free port", func(c *config.Config) { c.Listen = "[::1]:0" }, faas.OK, ""},
		{"localhost", func(c *config.Config) { c.Listen = "localhost:80" }, faas.OK, ""},
		{"every address", func(c *config.Config) { c.Listen = ":8080" }, faas.Denied, "--insecure"},
		{"other address", func(c *config.Config) { c.Listen = "192.0.2.1:8080" }, faas.Denied, "--insecure"},
		{"every address, insecure", func(c *config.Config) { c.Listen, c.Insecure = ":8080", true }, faas.OK, ""},
		{"no port", func(c *config.Config) { c.Listen = "localhost" }, faas.Invalid, "127.0.0.1:8080"},
		{"port too high", func(c *config.Config) { c.Listen = "localhost:70000" }, faas.Invalid, "65535"},
		{"relative data", func(c *config.Config) { c.Data = "here" }, faas.Invalid, "absolute"},
		{"data overlay cannot take", func(c *config.Config) { c.Data = "/a:b" }, faas.Invalid, "overlay"},
		{"driver", func(c *config.Config) { c.Driver = "docker" }, faas.Invalid, "ns, fake"},
		{"level", func(c *config.Config) { c.LogLevel = "loud" }, faas.Invalid, "debug, info, warn, error"},
		{"format", func(c *config.Config) { c.LogFormat = "xml" }, faas.Invalid, "text, json"},
		{"memory", func(c *config.Config) { c.Memory = 1 }, faas.Invalid, "8 MB"},
		{"journal", func(c *config.Config) { c.JournalBytes = 0 }, faas.Invalid, "1 MB"},
		{"never frozen, no blanks", func(c *config.Config) { c.FreezeAfter, c.Blanks = -1, -1 }, faas.OK, ""},
		{"calls at once", func(c *config.Config) { c.MaxConcurrency = -1 }, faas.Invalid, "negative"},
		{"callers in line", func(c *config.Config) { c.MaxWaiting = -1 }, faas.Invalid, "negative"},
		{"quota", func(c *config.Config) { c.HyperQuota = -1 }, faas.Invalid, "negative"},
		{"no limits", func(c *config.Config) {
			c.ResultPerFunction, c.ResultTotal, c.QueuePerFunction, c.QueueTotal, c.ResultAge, c.MaxResult, c.HyperQuota = 0, 0, 0, 0, 0, 0, 0
		}, faas.OK, ""},
		{"results", func(c *config.Config) { c.ResultTotal = 1 }, faas.Invalid, "1 MB; 0 is no limit"},
		{"share", func(c *config.Config) { c.AsyncShare = 101 }, faas.Invalid, "between 0 and 100"},
		{"negative share", func(c *config.Config) { c.AsyncShare = -1 }, faas.Invalid, "between 0 and 100"},
		{"keys that are never kept", func(c *config.Config) { c.KeyAge = 0 }, faas.Invalid, "key-age"},
		{"TLS", func(c *config.Config) { c.TLSListen = "[::1]:8443" }, faas.OK, ""},
		{"TLS beside a free port", func(c *config.Config) { c.Listen, c.TLSListen = "127.0.0.1:0", "127.0.0.1:0" }, faas.OK, ""},
		{"TLS with a certificate", func(c *config.Config) { c.TLSListen, c.TLSCert, c.TLSKey = "127.0.0.1:0", "/c", "/k" }, faas.OK, ""},
		{"TLS at every address", func(c *config.Config) { c.TLSListen = ":8443" }, faas.Denied, "--insecure"},
		{"TLS without a port", func(c *config.Config) { c.TLSListen = "localhost" }, faas.Invalid, "tls-listen"},
		{"TLS where plain HTTP is", func(c *config.Config) { c.TLSListen = c.Listen }, faas.Invalid, "another port"},
		{"certificate without key", func(c *config.Config) { c.TLSListen, c.TLSCert = "127.0.0.1:0", "/c" }, faas.Invalid, "tls-key"},
		{"key without certificate", func(c *config.Config) { c.TLSListen, c.TLSKey = "127.0.0.1:0", "/k" }, faas.Invalid, "tls-cert"},
		{"certificate without TLS", func(c *config.Config) { c.TLSCert, c.TLSKey = "/c", "/k" }, faas.Invalid, "tls-listen"},
		{"access keys", func(c *config.Config) { c.HyperKeys = []string{"AK:S/K=+:x", "B:C"} }, faas.OK, ""},
		{"access key that is none", func(c *config.Config) { c.HyperKeys = []string{"AK:SK", "hush"} }, faas.Invalid, "entry 2"},
		{"access key with a slash", func(c *config.Config) { c.HyperKeys = []string{"A/K:hush"} }, faas.Invalid, `"A/K"`},
		{"access key twice", func(c *config.Config) { c.HyperKeys = []string{"AK:hush", "AK:hush2"} }, faas.Invalid, "twice"},
		{"secret as it is printed", func(c *config.Config) { c.HyperKeys = []string{"AK:***"} }, faas.Invalid, "left out"},
		{"region", func(c *config.Config) { c.HyperRegion = "" }, faas.Invalid, "us-west-1"},
		{"host", func(c *config.Config) { c.HyperHost = "node.lan:8443" }, faas.OK, ""},
		{"host that is a URL", func(c *config.Config) { c.HyperHost = "https://node.lan" }, faas.Invalid, "host:port"},
		{"host with a path", func(c *config.Config) { c.HyperHost = "node.lan/x" }, faas.Invalid, "host:port"},
		{"isolation of Hyper functions", func(c *config.Config) { c.HyperIsolation = "gvisor" }, faas.OK, ""},
		{"isolation of Hyper functions that nobody knows", func(c *config.Config) { c.HyperIsolation = "kata" }, faas.Invalid, "native, gvisor, runc, crun"},
		{"isolation of Hyper functions with the fake driver", func(c *config.Config) { c.Driver, c.HyperIsolation = "fake", "runc" }, faas.Invalid, "driver fake"},
		{"isolation", func(c *config.Config) { c.Isolation = "crun" }, faas.OK, ""},
		{"isolation that nobody knows", func(c *config.Config) { c.Isolation = "kata" }, faas.Invalid, "native, gvisor, runc, crun"},
		{"no isolation", func(c *config.Config) { c.Isolation = "" }, faas.Invalid, "native, gvisor, runc, crun"},
		{"isolation with the fake driver", func(c *config.Config) { c.Driver, c.Isolation = "fake", "gvisor" }, faas.Invalid, "driver fake"},
		{"fake driver", func(c *config.Config) { c.Driver = "fake" }, faas.OK, ""},
		{"programs", func(c *config.Config) { c.Runtimes = []string{"gvisor=/opt/runsc", "runc=myrunc"} }, faas.OK, ""},
		{"program of nothing", func(c *config.Config) { c.Runtimes = []string{"/opt/runsc"} }, faas.Invalid, "gvisor=/opt/bin/runsc"},
		{"program of native", func(c *config.Config) { c.Runtimes = []string{"native=/bin/x"} }, faas.Invalid, "one of gvisor, runc and crun"},
		{"no program", func(c *config.Config) { c.Runtimes = []string{"gvisor="} }, faas.Invalid, "gvisor=/opt/bin/runsc"},
		{"program twice", func(c *config.Config) { c.Runtimes = []string{"gvisor=/a", "gvisor=/b"} }, faas.Invalid, "twice"},
		{"program at a relative path", func(c *config.Config) { c.Runtimes = []string{"gvisor=bin/runsc"} }, faas.Invalid, "absolute path"},
		{"devices", func(c *config.Config) { c.Devices = []string{"/dev/kvm", "/dev/dri/card0"} }, faas.OK, ""},
		{"device elsewhere", func(c *config.Config) { c.Devices = []string{"/tmp/kvm"} }, faas.Invalid, "/dev/kvm"},
		{"device that leads elsewhere", func(c *config.Config) { c.Devices = []string{"/dev/../etc/passwd"} }, faas.Invalid, "below /dev"},
		{"directory of devices", func(c *config.Config) { c.Devices = []string{"/dev/"} }, faas.Invalid, "below /dev"},
		{"device twice", func(c *config.Config) { c.Devices = []string{"/dev/kvm", "/dev/kvm"} }, faas.Invalid, "twice"},
		{"registries", func(c *config.Config) {
			c.PlainHTTP, c.Registries = []string{"[fd00::1]:5000"}, []string{"registry.lan", "10.1.2.3:80"}
		}, faas.OK, ""},
		{"registry that is a URL", func(c *config.Config) { c.Registries = []string{"http://registry.lan"} }, faas.Invalid, "registry.lan:5000"},
		{"registry with a path", func(c *config.Config) { c.PlainHTTP = []string{"registry.lan/images"} }, faas.Invalid, "registry.lan:5000"},
		{"no network", func(c *config.Config) { c.Network = "none" }, faas.OK, ""},
		{"rules alone", func(c *config.Config) { c.Network, c.Allow = "allow", []string{"10.0.0.0/8:5432", "[fd00::1]:80/tcp"} }, faas.OK, ""},
		{"named network", func(c *config.Config) { c.Networks, c.Network = []string{"db=allow 10.1.2.3:5432"}, "db" }, faas.OK, ""},
		{"network that nobody defined", func(c *config.Config) { c.Network = "db" }, faas.Invalid, "setting networks"},
		{"empty network", func(c *config.Config) { c.Network = "" }, faas.Invalid, "none, open, allow"},
		{"network of the host", func(c *config.Config) { c.Network = "host" }, faas.Invalid, "single functions"},
		{"rules without a network", func(c *config.Config) { c.Network, c.Allow = "none", []string{"a.lan:80"} }, faas.Invalid, "network=allow"},
		{"rules with a network that is none", func(c *config.Config) {
			c.Networks, c.Network, c.Allow = []string{"no=none"}, "no", []string{"a.lan:80"}
		}, faas.Invalid, "network=allow"},
		{"rule without a port", func(c *config.Config) { c.Allow = []string{"10.0.0.0/8"} }, faas.Invalid, "names no port"},
		{"rules", func(c *config.Config) { c.Allow = slices.Repeat([]string{"a.lan:80"}, faas.MaxRules) }, faas.OK, ""},
		{"rules without end", func(c *config.Config) { c.Allow = slices.Repeat([]string{"a.lan:80"}, faas.MaxRules+1) }, faas.Invalid, "at most 64"},
		{"network without mode", func(c *config.Config) { c.Networks = []string{"db="} }, faas.Invalid, "db=allow 10.1.2.3:5432"},
		{"network without name", func(c *config.Config) { c.Networks = []string{"=open"} }, faas.Invalid, "db=allow 10.1.2.3:5432"},
		{"network with a long name", func(c *config.Config) { c.Networks = []string{strings.Repeat("a", 64) + "=open"} }, faas.Invalid, "at most 63"},
		{"network with a name in capitals", func(c *config.Config) { c.Networks = []string{"DB=open"} }, faas.Invalid, "a-z, 0-9"},
		{"network with the name of a mode", func(c *config.Config) { c.Networks = []string{"open=allow a.lan:80"} }, faas.Invalid, "that is a mode"},
		{"network twice", func(c *config.Config) { c.Networks = []string{"db=open", "db=none"} }, faas.Invalid, "one entry"},
		{"network with an unknown mode", func(c *config.Config) { c.Networks = []string{"db=10.1.2.3:5432"} }, faas.Invalid, "none, open or allow"},
		{"network with a bad rule", func(c *config.Config) { c.Networks = []string{"db=allow 10.1.2.3/24:5432"} }, faas.Invalid, "10.1.2.0/24"},
		{"network of the host by name", func(c *config.Config) { c.Networks = []string{"db=host"} }, faas.Invalid, "single functions"},
		{"network with rules that are too many", func(c *config.Config) {
			c.Networks, c.Allow = []string{"db=allow 10.1.2.3:1"}, slices.Repeat([]string{"a.lan:80"}, faas.MaxRules)
		}, faas.Invalid, "limit of 64"},
		{"networks of Fn", func(c *config.Config) { c.Networks, c.FnNetworks = []string{"a=open", "b=open"}, []string{"a", "b"} }, faas.OK, ""},
		{"network of Fn that nobody defined", func(c *config.Config) { c.FnNetworks = []string{"a"} }, faas.Invalid, "a=open"},
		{"network of Fn twice", func(c *config.Config) { c.Networks, c.FnNetworks = []string{"a=open"}, []string{"a", "a"} }, faas.Invalid, "twice"},
		{"range of addresses", func(c *config.Config) { c.NetworkRange = "10.200.0.0/18" }, faas.OK, ""},
		{"small range", func(c *config.Config) { c.NetworkRange = "10.200.0.0/19" }, faas.Invalid, "at least a /18"},
		{"range of IPv6", func(c *config.Config) { c.NetworkRange = "fd00::/8" }, faas.Invalid, "IPv4 range"},
		{"address of a range", func(c *config.Config) { c.NetworkRange = "10.200.0.1/16" }, faas.Invalid, "10.200.0.0/16"},
		{"range of the internet", func(c *config.Config) { c.NetworkRange = "8.0.0.0/8" }, faas.Invalid, "10.0.0.0/8"},
		{"range with more than private addresses", func(c *config.Config) { c.NetworkRange = "0.0.0.0/0" }, faas.Invalid, "10.0.0.0/8"},
		{"bandwidth", func(c *config.Config) { c.Bandwidth = 16 * faas.KB }, faas.OK, ""},
		{"bandwidth for less than a packet", func(c *config.Config) { c.Bandwidth = 1000 }, faas.Invalid, "16 KB"},
		{"bandwidth that the kernel cannot count", func(c *config.Config) { c.Bandwidth = 1000 * faas.GB }, faas.Invalid, "100 GB"},
		{"negative bandwidth", func(c *config.Config) { c.Bandwidth = -1 }, faas.Invalid, "0 is no limit"},
		{"no connections", func(c *config.Config) { c.Connections = 0 }, faas.Invalid, "between 1 and 1000000"},
		{"connections that the kernel cannot count", func(c *config.Config) { c.Connections = 1_000_001 }, faas.Invalid, "between 1 and 1000000"},
		{"node", func(c *config.Config) { c.NodeType = "lb" }, faas.Invalid, "full, api"},
		{"log to a file", func(c *config.Config) { c.LogDest = "file:///var/log/hob.log" }, faas.OK, ""},
		{"log to syslog", func(c *config.Config) { c.LogDest = "tcp://[::1]:514" }, faas.OK, ""},
		{"log to nowhere", func(c *config.Config) { c.LogDest = "udp://host" }, faas.Invalid, "udp://HOST:PORT"},
		{"prefix of lines", func(c *config.Config) { c.LogPrefix = "a\nb" }, faas.Invalid, "256 bytes"},
		{"label", func(c *config.Config) { c.Label = strings.Repeat("a", 257) }, faas.Invalid, "256 bytes"},
		{"head", func(c *config.Config) { c.MaxRequestHeader = 1 }, faas.Invalid, "4 KB"},
		{"endless head", func(c *config.Config) { c.MaxRequestHeader = faas.GB }, faas.Invalid, "16 MB"},
		{"address", func(c *config.Config) { c.PublicURL = "https://fn.example.org/base" }, faas.OK, ""},
		{"address without scheme", func(c *config.Config) { c.PublicURL = "fn.example.org:80" }, faas.Invalid, "http://host"},
		{"origins", func(c *config.Config) { c.CORSOrigins = []string{"*", "http://a:1"} }, faas.OK, ""},
		{"origin with a path", func(c *config.Config) { c.CORSOrigins = []string{"http://a/"} }, faas.Invalid, "scheme://host"},
		{"origin without scheme", func(c *config.Config) { c.CORSOrigins = []string{"a.org"} }, faas.Invalid, "scheme://host"},
		{"header", func(c *config.Config) { c.CORSHeaders = []string{"a b"} }, faas.Invalid, "name of a header"},
		{"id header", func(c *config.Config) { c.RequestIDHeader = "a:" }, faas.Invalid, "name of a header"},
		{"domain", func(c *config.Config) { c.Domain = "fn.example-1.org" }, faas.OK, ""},
		{"domain with a dot before it", func(c *config.Config) { c.Domain = ".example.org" }, faas.Invalid, "functions.example.org"},
		{"domain with an underscore", func(c *config.Config) { c.Domain = "a_b.org" }, faas.Invalid, "lower case"},
		{"domain in capitals", func(c *config.Config) { c.Domain = "Example.org" }, faas.Invalid, "lower case"},
		{"privileged", func(c *config.Config) { c.FnPrivileged = true }, faas.Denied, "--insecure"},
		{"privileged, insecure", func(c *config.Config) { c.FnPrivileged, c.Insecure = true, true }, faas.OK, ""},
		{"processes", func(c *config.Config) { c.MaxPIDs = 0 }, faas.Invalid, "least of 1"},
		{"open files", func(c *config.Config) { c.MaxFiles = 3 }, faas.Invalid, "least of 16"},
		{"start", func(c *config.Config) { c.FnStartTimeout = 0 }, faas.Invalid, "no time"},
		{"file system", func(c *config.Config) { c.FnMaxFS = 1 }, faas.Invalid, "0 is no limit"},
		{"credentials", func(c *config.Config) { c.RegistryAuth = `{"auths":{}}` }, faas.OK, ""},
		{"file of credentials", func(c *config.Config) { c.RegistryAuth = "/etc/hob/auth.json" }, faas.OK, ""},
		{"credentials that are not JSON", func(c *config.Config) { c.RegistryAuth = `{"hush"` }, faas.Invalid, "JSON object"},
		{"credentials as they are printed", func(c *config.Config) { c.RegistryAuth = "***" }, faas.Invalid, "left out"},
		{"pull time", func(c *config.Config) { c.PullTimeout = 0 }, faas.Invalid, "no time"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := config.Default()
			c.set(&cfg)
			err := cfg.Check()
			if faas.KindOf(err) != c.kind || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v (kind %q), want kind %q saying %q", err, faas.KindOf(err), c.kind, c.want)
			}
			if err != nil && strings.Contains(err.Error(), "hush") {
				t.Errorf("the error tells a secret: %v", err)
			}
		})
	}
}

func TestSecretsAreReadAndNeverPrinted(t *testing.T) {
	c, _, err := load(t, "hyper-keys = AK:hush, hush", nil)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"AK:hush", "hush"}; !slices.Equal(c.HyperKeys, want) {
		t.Errorf("hyper-keys is %q, want %q", c.HyperKeys, want)
	}
	var printed strings.Builder
	if _, err := c.WriteTo(&printed); err != nil {
		t.Fatal(err)
	}
	if s := printed.String(); strings.Contains(s, "hush") || !strings.Contains(s, "hyper-keys = AK:***,:***") {
		t.Errorf("what is printed has a secret, or no access key:\n%s", s)
	}
	c, _, err = load(t, `registry-auth = {"auths":{"r":{"password":"hush"}}}`, nil)
	printed.Reset()
	if c.WriteTo(&printed); err != nil || c.RegistryAuth[0] != '{' || strings.Contains(printed.String(), "hush") {
		t.Errorf("%v, credentials are printed:\n%s", err, printed.String())
	}
	c, _, err = load(t, "hyper-keys = A:1", nil, "--hyper-keys=B:2", "--hyper-keys=C:3,D:4")
	if want := []string{"B:2", "C:3", "D:4"}; err != nil || !slices.Equal(c.HyperKeys, want) {
		t.Errorf("hyper-keys is %q, %v, want %q", c.HyperKeys, err, want)
	}
}

func TestEveryFieldIsASetting(t *testing.T) {
	fields := 0
	for f := range reflect.TypeFor[config.Config]().Fields() {
		if f.IsExported() {
			fields++
		}
	}
	entries := config.Default().Entries()
	if len(entries) != fields {
		t.Errorf("%d settings for %d fields", len(entries), fields)
	}
	for _, e := range entries {
		if e.Help == "" || strings.HasSuffix(e.Help, ".") || len(e.Help) > 120 {
			t.Errorf("%s: help %q is not a line", e.Name, e.Help)
		}
	}
}

func TestReferencePagesAreTrue(t *testing.T) {
	var b strings.Builder
	b.WriteString("| setting | variable | default | meaning |\n|---|---|---|---|\n")
	for _, e := range config.Default().Entries() {
		def := "`" + e.Value + "`"
		if e.Value == "" {
			def = "none"
		}
		text := capital(e.Help) + "."
		if e.Note != "" {
			text += " " + e.Note
		}
		b.WriteString("| `" + e.Name + "` | `" + e.Env + "` | " + def + " | " + text + " |\n")
	}
	isTable(t, "../../docs/configuration.md", "settings", b.String())

	isTable(t, "../../docs/variables.md", "fn", tableOf(config.Variables()))
	isTable(t, "../../docs/variables.md", "ironfunctions", tableOf(config.IronVariables()))
}

func tableOf(variables []config.Variable) string {
	var b strings.Builder
	b.WriteString("| variable | here | how |\n|---|---|---|\n")
	for _, v := range variables {
		here, text := "ignored", capital(v.Text)
		switch {
		case v.Setting != "":
			here = "honoured: `" + v.Setting + "`"
		case v.Instead != "":
			here = "differently named: " + v.Instead
		}
		b.WriteString("| `" + v.Name + "` | " + here + " | " + cmp.Or(text, "The same value.") + " |\n")
	}
	return b.String()
}

func capital(s string) string {
	if s == "" {
		return ""
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// isTable checks that a page has the table between the two marks of its name.
func isTable(t *testing.T, page, name, table string) {
	t.Helper()
	begin, end := "<!-- "+name+": made by go test ./internal/config -update -->\n", "<!-- end of "+name+" -->\n"
	data, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(data), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has not the two marks %q and %q", page, begin, end)
	}
	want := before + begin + "\n" + table + "\n" + end + after
	if *update {
		if err := os.WriteFile(page, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if want != string(data) {
		t.Errorf("%s is not what the code says: run go test ./internal/config -update", page)
	}
}

func FuzzFile(f *testing.F) {
	for _, seed := range []string{
		"", "memory = 1g", "data = \"/a # b\" # c", "=", "\"", "load = a,,b", "a = b\x00", "grace=1h\r\nlisten = :1\r\n", "hosts = #", "max-image = 1e400g",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, file string) {
		c, _, err := load(t, file, nil)
		if err != nil {
			if faas.KindOf(err) != faas.Invalid {
				t.Errorf("kind %q: %v", faas.KindOf(err), err)
			}
			return
		}
		c.Check()
		c.Entries()
	})
}
