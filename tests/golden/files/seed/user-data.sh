#!/bin/sh
name=web-4tz9k
echo ${#name} ${name} {{ }}
