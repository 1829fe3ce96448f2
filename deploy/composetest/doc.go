// Package composetest holds docker-compose.dev.yml, deploy/Dockerfile and the
// files they use against the code, so that none of them rots unseen: ports, image
// versions, environment variables, start order, build targets, mounted files.
//
// It reads the Compose file by the Compose project's own library, the Dockerfile
// by BuildKit's own parser and the NATS configuration by the NATS server itself,
// and starts no container. It is a module of its own so that none of these
// libraries reaches the go.mod of the services.
package composetest
