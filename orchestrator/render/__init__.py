"""Values -> documents (domain XML, volume XML, cloud-init files, haproxy.cfg). No input, no output."""
