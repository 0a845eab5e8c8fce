package launch

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"hob/faas"
	"hob/internal/protocol"
	"hob/internal/sandbox"
)

// defaultPath is the PATH of images that set none, as Docker has it.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// environment lays env over that of the image and over what every process has. A
// later value of a name wins; each name is there once.
func environment(spec sandbox.Spec, env []string) []string {
	home := "/"
	if spec.User.UID == 0 {
		home = "/root"
	}
	all := []string{"PATH=" + defaultPath, "HOME=" + home}
	if spec.Hostname != "" { // else the driver knows
		all = append(all, "HOSTNAME="+spec.Hostname)
	}
	all = slices.Concat(all, spec.Env, env)
	at := make(map[string]int, len(all))
	out := all[:0]
	for _, e := range all {
		name, _, _ := strings.Cut(e, "=")
		if i, there := at[name]; there {
			out[i] = e
			continue
		}
		at[name] = len(out)
		out = append(out, e)
	}
	return out
}

// hotEnvironment is what a process that serves many calls finds besides what its
// image brings: the configuration of the app, then of the function, and what is
// true of every call. It has our names and those of Fn, whose development kits
// read them; a function that was made as a route has what Fn and IronFunctions tell
// one of.
func hotEnvironment(app faas.App, fn faas.Function) []string {
	var env []string
	if fn.Format == faas.FormatHTTPStream {
		env = append(env, "OCI_TRACING_ENABLED=0") // where to send traces is for the configuration to say
	}
	route := fn.Beside["iron"]
	for _, config := range []map[string]string{app.Env, fn.Env} {
		if route != "" { // as a variable that a shell can read, too; one that is given as such wins
			for _, name := range slices.Sorted(maps.Keys(config)) {
				env = append(env, strings.ToUpper(strings.ReplaceAll(name, "-", "_"))+"="+config[name])
			}
		}
		for _, name := range slices.Sorted(maps.Keys(config)) {
			env = append(env, name+"="+config[name])
		}
	}
	memory := strconv.FormatInt(int64(fn.Memory/faas.MB), 10)
	env = append(env,
		"HOB_APP="+app.Name, "HOB_FUNCTION="+fn.Name, "HOB_MEMORY="+memory, "HOB_FORMAT="+string(fn.Format),
		"FN_APP_NAME="+app.Name, "FN_FN_NAME="+fn.Name, "FN_APP_ID="+app.ID, "FN_FN_ID="+fn.ID,
		"FN_MEMORY="+memory, "FN_FORMAT="+string(fn.Format), "FN_TYPE=sync",
	)
	if route != "" {
		env = append(env, "FN_PATH="+route, "FN_TMPSIZE="+strconv.FormatUint(uint64(fn.TmpGiven()), 10))
		if fn.CPU > 0 {
			env = append(env, "FN_CPUS="+strconv.FormatInt(int64(fn.CPU), 10)+"m")
		}
	}
	switch fn.Format {
	case faas.FormatHTTPStream:
		env = append(env, "FN_LISTENER=unix:"+protocol.ListenerDir+"/"+protocol.Listener)
	case faas.FormatPort:
		env = append(env, "PORT="+strconv.Itoa(fn.Port))
	}
	return env
}
