"""Capstan's files, as apps of one service (github.com/cloudius-systems/capstan, Documentation/)."""
