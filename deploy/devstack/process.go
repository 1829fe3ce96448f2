package main

import (
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// child is a process started by the devstack, as a rule in a process group of its own, so that
// a Ctrl-C at the terminal reaches the devstack alone, which then stops the rest in order.
type child struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when the process has been waited for
	err  error         // what Wait returned; read it after done
}

// startChild starts cmd in a group of its own and waits for it in the background. When the devstack
// dies without a chance to stop anything (SIGKILL), Linux sends the process the signal death.
func startChild(cmd *exec.Cmd, death syscall.Signal, cred *syscall.Credential) (*child, error) {
	return startChildIn(cmd, true, death, cred)
}

// startChildIn is startChild with the choice to leave the process in our own group.
func startChildIn(cmd *exec.Cmd, ownGroup bool, death syscall.Signal, cred *syscall.Credential) (*child, error) {
	cmd.SysProcAttr = childAttributes(death, cred)
	cmd.SysProcAttr.Setpgid = ownGroup
	started := make(chan error)
	spawner() <- func() { started <- cmd.Start() }
	if err := <-started; err != nil {
		return nil, err
	}
	c := &child{cmd: cmd, done: make(chan struct{})}
	go func() {
		defer close(c.done)
		c.err = cmd.Wait()
	}()
	return c, nil
}

// spawner returns the queue of the one OS thread that starts every child. Linux ties the
// parent-death signal to the thread that started the process, not to the process, so that
// thread must live as long as the devstack does.
var spawner = sync.OnceValue(func() chan<- func() {
	work := make(chan func())
	go func() {
		runtime.LockOSThread()
		for f := range work {
			f()
		}
	}()
	return work
})

// running tells whether the process has not been waited for yet.
func (c *child) running() bool {
	select {
	case <-c.done:
		return false
	default:
		return true
	}
}

// signal sends sig to the process alone.
func (c *child) signal(sig syscall.Signal) {
	if c.running() {
		_ = c.cmd.Process.Signal(sig)
	}
}

// signalGroup sends sig to the process and to everything it started in its group, also when
// the process itself has ended.
func (c *child) signalGroup(sig syscall.Signal) {
	_ = syscall.Kill(-c.cmd.Process.Pid, sig)
}

// wait returns true when the process ended within d.
func (c *child) wait(d time.Duration) bool {
	select {
	case <-c.done:
		return true
	case <-time.After(d):
		return false
	}
}

// exitText says in words how the process ended, for example "exit status 1" or "killed".
func (c *child) exitText() string {
	if c.err == nil {
		return "exit status 0"
	}
	var exit *exec.ExitError
	if errors.As(c.err, &exit) {
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
			return fmt.Sprintf("signal %q", status.Signal())
		}
	}
	return c.err.Error()
}
