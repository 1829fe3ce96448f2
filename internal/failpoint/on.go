//go:build failpoint

// Package failpoint kills or stops a process at a named point of its work, for tests of what such a moment leaves behind. It
// does nothing, and costs nothing, unless the program was built with the tag failpoint.
package failpoint

import (
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
)

// The variable that arms one point: NAME:kill ends the process as SIGKILL does, NAME:stop stops it as SIGSTOP does, once.
const variable = "ACTCORE_FAIL"

var once sync.Once

// HitAt is the point with this name for one thing among many, as NAME=THING:kill arms it.
func HitAt(name, thing string) { Hit(name + "=" + thing) }

// Hit is the point with this name. An armed one does not return (kill), or returns when the process is continued (stop).
func Hit(name string) {
	armed, action, ok := strings.Cut(os.Getenv(variable), ":")
	if !ok || armed != name {
		return
	}
	once.Do(func() {
		// Neither signal takes effect at once: a thread may go on for a moment, and would be past the point by then.
		continued := make(chan os.Signal, 1)
		end := syscall.SIGKILL
		if action == "stop" {
			end = syscall.SIGSTOP
			signal.Notify(continued, syscall.SIGCONT)
			defer signal.Stop(continued)
		}
		_ = syscall.Kill(os.Getpid(), end)
		<-continued
	})
}
