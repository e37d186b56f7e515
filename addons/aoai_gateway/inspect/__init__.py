"""What people see of a call in mitmweb, mitmproxy and dump files."""
