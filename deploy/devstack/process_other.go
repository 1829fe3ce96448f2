//go:build !linux

package main

import "syscall"

// childAttributes ignores the parent-death signal, which only Linux has. What an ungracefully
// killed devstack leaves running is found and stopped by the next one.
func childAttributes(_ syscall.Signal, cred *syscall.Credential) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: cred}
}
