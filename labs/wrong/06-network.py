# Wrong answers to lab 06: each stands in the exercise's place, and the check has to say why it is wrong.
# A cell begins with "# %% NAME: what is wrong about it"; "# says: " is a regular expression of what the check says.

# %% cable: both ends stay here
# says: eth7 is on this side
def cable(near, far, pid, bridge):
    peer = link() + attribute(IFLA_IFNAME, far)
    kind = attribute(IFLA_INFO_KIND, "veth") + attribute(IFLA_INFO_DATA, attribute(VETH_INFO_PEER, peer))
    body = attribute(IFLA_IFNAME, near) + attribute(IFLA_MASTER, socket.if_nametoindex(bridge))
    request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, link(IFF_UP) + body + attribute(IFLA_LINKINFO, kind))


# %% cable: it is not plugged in
# says: the master of port7 is nobody\nExpected: +br7
def cable(near, far, pid, bridge):
    peer = link() + attribute(IFLA_IFNAME, far) + attribute(IFLA_NET_NS_PID, pid)
    kind = attribute(IFLA_INFO_KIND, "veth") + attribute(IFLA_INFO_DATA, attribute(VETH_INFO_PEER, peer))
    body = attribute(IFLA_IFNAME, near) + attribute(IFLA_LINKINFO, kind)
    request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, link(IFF_UP) + body)


# %% cable: nobody sets it up
# says: port7 is down
def cable(near, far, pid, bridge):
    peer = link() + attribute(IFLA_IFNAME, far) + attribute(IFLA_NET_NS_PID, pid)
    kind = attribute(IFLA_INFO_KIND, "veth") + attribute(IFLA_INFO_DATA, attribute(VETH_INFO_PEER, peer))
    body = attribute(IFLA_IFNAME, near) + attribute(IFLA_MASTER, socket.if_nametoindex(bridge))
    request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, link() + body + attribute(IFLA_LINKINFO, kind))


# %% cable: the wrong end goes there
# says: on this side br7, eth7, lo\nExpected: +a link called port7
def cable(near, far, pid, bridge):
    peer = link() + attribute(IFLA_IFNAME, near) + attribute(IFLA_NET_NS_PID, pid)
    kind = attribute(IFLA_INFO_KIND, "veth") + attribute(IFLA_INFO_DATA, attribute(VETH_INFO_PEER, peer))
    body = attribute(IFLA_IFNAME, far) + attribute(IFLA_MASTER, socket.if_nametoindex(bridge))
    request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, link(IFF_UP) + body + attribute(IFLA_LINKINFO, kind))


# %% cable: the name of the bridge where its number belongs
# says: cable raised OSError
def cable(near, far, pid, bridge):
    peer = link() + attribute(IFLA_IFNAME, far) + attribute(IFLA_NET_NS_PID, pid)
    kind = attribute(IFLA_INFO_KIND, "veth") + attribute(IFLA_INFO_DATA, attribute(VETH_INFO_PEER, peer))
    body = attribute(IFLA_IFNAME, near) + attribute(IFLA_MASTER, bridge)
    request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, link(IFF_UP) + body + attribute(IFLA_LINKINFO, kind))


# %% set_up: the loopback is forgotten
# says: lo is down
def set_up(address, length, gateway):
    packed = socket.inet_aton(address)
    header = struct.pack("=BBBBi", socket.AF_INET, length, 0, 0, socket.if_nametoindex("eth0"))
    body = attribute(IFA_LOCAL, packed) + attribute(IFA_ADDRESS, packed)
    request(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, header + body)
    request(RTM_NEWLINK, 0, link(IFF_UP) + attribute(IFLA_IFNAME, "eth0"))
    header = struct.pack("=8BI", socket.AF_INET, 0, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, 0, RTN_UNICAST, 0)
    request(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, header + attribute(RTA_GATEWAY, socket.inet_aton(gateway)))


# %% set_up: no default route
# says: the default route is missing
def set_up(address, length, gateway):
    packed = socket.inet_aton(address)
    header = struct.pack("=BBBBi", socket.AF_INET, length, 0, 0, socket.if_nametoindex("eth0"))
    body = attribute(IFA_LOCAL, packed) + attribute(IFA_ADDRESS, packed)
    request(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, header + body)
    for name in ("lo", "eth0"):
        request(RTM_NEWLINK, 0, link(IFF_UP) + attribute(IFLA_IFNAME, name))


# %% set_up: a network of its own choice
# says: eth0 has 172\.29\.0\.2/24\nExpected: +172\.29\.0\.2/16
def set_up(address, length, gateway):
    packed = socket.inet_aton(address)
    header = struct.pack("=BBBBi", socket.AF_INET, 24, 0, 0, socket.if_nametoindex("eth0"))
    body = attribute(IFA_LOCAL, packed) + attribute(IFA_ADDRESS, packed)
    request(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, header + body)
    for name in ("lo", "eth0"):
        request(RTM_NEWLINK, 0, link(IFF_UP) + attribute(IFLA_IFNAME, name))
    header = struct.pack("=8BI", socket.AF_INET, 0, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, 0, RTN_UNICAST, 0)
    request(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, header + attribute(RTA_GATEWAY, socket.inet_aton(gateway)))


# %% set_up: the route before the link is up
# says: set_up raised OSError: \[Errno 101\] Network is unreachable
def set_up(address, length, gateway):
    header = struct.pack("=8BI", socket.AF_INET, 0, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, 0, RTN_UNICAST, 0)
    request(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, header + attribute(RTA_GATEWAY, socket.inet_aton(gateway)))


# %% set_up: it takes the gateway's address too
# says: eth0 has 172\.29\.0\.2/16, 172\.29\.0\.1/16\nExpected: +one address
def set_up(address, length, gateway):
    for mine in (address, gateway):
        packed = socket.inet_aton(mine)
        header = struct.pack("=BBBBi", socket.AF_INET, length, 0, 0, socket.if_nametoindex("eth0"))
        body = attribute(IFA_LOCAL, packed) + attribute(IFA_ADDRESS, packed)
        request(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, header + body)
    for name in ("lo", "eth0"):
        request(RTM_NEWLINK, 0, link(IFF_UP) + attribute(IFLA_IFNAME, name))


# %% reserve: by hash, as small engines do
# says: several have the same address
def reserve(path, container):
    import zlib

    plan = {}
    with open(path + ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.path.exists(path):
            with open(path) as file:
                plan = json.load(file)
        plan[container] = f"172.29.0.{2 + zlib.crc32(container.encode()) % 253}"
        with open(path, "w") as file:
            json.dump(plan, file)
    return plan[container]


# %% reserve: the plan is read before the lock is held
# says: several have the same address
def reserve(path, container):
    plan = {}
    if os.path.exists(path):
        with open(path + ".lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with open(path) as file:
                plan = json.load(file)
    with open(path + ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        address = next(it for it in (f"172.29.0.{last}" for last in range(2, 255)) if it not in plan.values())
        plan[container] = address
        with open(path, "w") as file:
            json.dump(plan, file)
        return address


# %% reserve: the number of containers is taken for the next address
# says: was given out a second time
def reserve(path, container):
    with open(path + ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        plan = {}
        if os.path.exists(path):
            with open(path) as file:
                plan = json.load(file)
        plan[container] = f"172.29.0.{len(plan) + 2}"
        with open(path, "w") as file:
            json.dump(plan, file)
        return plan[container]


# %% reserve: it begins with the gateway's address
# says: 172\.29\.0\.1'\] was given out
def reserve(path, container):
    with open(path + ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        plan = {}
        if os.path.exists(path):
            with open(path) as file:
                plan = json.load(file)
        address = next(it for it in (f"172.29.0.{last}" for last in range(1, 255)) if it not in plan.values())
        plan[container] = address
        with open(path, "w") as file:
            json.dump(plan, file)
        return address


# %% reserve: a full network begins anew
# says: with no address left, 172\.29\.0\.2\nExpected: +an exception
def reserve(path, container):
    with open(path + ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        plan = {}
        if os.path.exists(path):
            with open(path) as file:
                plan = json.load(file)
        free = [it for it in (f"172.29.0.{last}" for last in range(2, 255)) if it not in plan.values()]
        plan[container] = free[0] if free else "172.29.0.2"
        with open(path, "w") as file:
            json.dump(plan, file)
        return plan[container]


# %% reserve: nothing is noted
# says: several have the same address
def reserve(path, container):
    return "172.29.0.2"


# %% way_out: nobody forwards
# says: ip_forward is 0
def way_out(subnet, bridge):
    nft(f"""
table ip my-network {{
  chain postrouting {{
    type nat hook postrouting priority 100;
    ip saddr {subnet} oifname != "{bridge}" masquerade
  }}
}}
""")


# %% way_out: forwarded, but with its own address
# says: the Internet sees 172\.29\.0\.2\nExpected: +203\.0\.113\.1
def way_out(subnet, bridge):
    linux.write("/proc/sys/net/ipv4/ip_forward", "1")


# %% way_out: masquerade is taken for a firewall
# says: the Internet has sent a packet to the box's own address through the host, and has reached it
def way_out(subnet, bridge):
    linux.write("/proc/sys/net/ipv4/ip_forward", "1")
    nft(f"""
table ip my-network {{
  chain postrouting {{
    type nat hook postrouting priority 100;
    ip saddr {subnet} oifname != "{bridge}" masquerade
  }}
}}
""")


# %% way_out: the answers are dropped as well
# says: no connection from the box to the Internet
def way_out(subnet, bridge):
    linux.write("/proc/sys/net/ipv4/ip_forward", "1")
    nft(f"""
table ip my-network {{
  chain postrouting {{
    type nat hook postrouting priority 100;
    ip saddr {subnet} oifname != "{bridge}" masquerade
  }}
  chain forward {{
    type filter hook forward priority 0;
    oifname "{bridge}" drop
  }}
}}
""")


# %% way_out: everybody's rules are flushed
# says: a firewall table of somebody else is gone
def way_out(subnet, bridge):
    linux.write("/proc/sys/net/ipv4/ip_forward", "1")
    nft(f"""
flush ruleset
table ip my-network {{
  chain postrouting {{
    type nat hook postrouting priority 100;
    ip saddr {subnet} oifname != "{bridge}" masquerade
  }}
  chain forward {{
    type filter hook forward priority 0;
    oifname "{bridge}" ct state established,related accept
    oifname "{bridge}" drop
  }}
}}
""")


# %% publish: only what comes in
# says: from the host, to its own address, port 8080: no answer
def publish(subnet, bridge, host_port, address, port):
    nft(f"""
table ip my-ports {{
  chain prerouting {{
    type nat hook prerouting priority -100;
    fib daddr type local tcp dport {host_port} dnat to {address}:{port}
  }}
}}
""")


# %% publish: 127.0.0.1 and the box get no answer
# says: from the host, to 127\.0\.0\.1, port 8080: no answer
def publish(subnet, bridge, host_port, address, port):
    rule = f"fib daddr type local tcp dport {host_port} dnat to {address}:{port}"
    nft(f"""
table ip my-ports {{
  chain prerouting {{
    type nat hook prerouting priority -100;
    {rule}
  }}
  chain output {{
    type nat hook output priority -100;
    {rule}
  }}
}}
""")


# %% publish: whoever calls is masqueraded
# says: from the Internet, to the host's address: the server sees 172\.29\.0\.1\nExpected: +203\.0\.113\.9
def publish(subnet, bridge, host_port, address, port):
    linux.write(f"/proc/sys/net/ipv4/conf/{bridge}/route_localnet", "1")
    rule = f"fib daddr type local tcp dport {host_port} dnat to {address}:{port}"
    nft(f"""
table ip my-ports {{
  chain prerouting {{
    type nat hook prerouting priority -100;
    {rule}
  }}
  chain output {{
    type nat hook output priority -100;
    {rule}
  }}
  chain postrouting {{
    type nat hook postrouting priority 100;
    oifname "{bridge}" ct status dnat masquerade
  }}
}}
""")


# %% publish: it takes every packet to that port, wherever it wants to go
# says: the box's connection to port 8080 of a server on the Internet: no answer
def publish(subnet, bridge, host_port, address, port):
    linux.write(f"/proc/sys/net/ipv4/conf/{bridge}/route_localnet", "1")
    rule = f"tcp dport {host_port} dnat to {address}:{port}"
    nft(f"""
table ip my-ports {{
  chain prerouting {{
    type nat hook prerouting priority -100;
    {rule}
  }}
  chain output {{
    type nat hook output priority -100;
    {rule}
  }}
  chain postrouting {{
    type nat hook postrouting priority 100;
    oifname "{bridge}" ct status dnat ip saddr {{ 127.0.0.0/8, {subnet} }} masquerade
  }}
}}
""")


# %% publish: all ports
# says: port 8081 leads to the box too
def publish(subnet, bridge, host_port, address, port):
    linux.write(f"/proc/sys/net/ipv4/conf/{bridge}/route_localnet", "1")
    rule = f"fib daddr type local meta l4proto tcp dnat to {address}:{port}"
    nft(f"""
table ip my-ports {{
  chain prerouting {{
    type nat hook prerouting priority -100;
    {rule}
  }}
  chain output {{
    type nat hook output priority -100;
    {rule}
  }}
  chain postrouting {{
    type nat hook postrouting priority 100;
    oifname "{bridge}" ct status dnat ip saddr {{ 127.0.0.0/8, {subnet} }} masquerade
  }}
}}
""")


# %% guard: only the IP header is looked at
# says: an ARP answer that claims the gateway's address arrives
def guard(port, mac, address):
    nft(f"""
table bridge my-guard {{
  chain spoofing {{
    type filter hook prerouting priority -350;
    iifname "{port}" ether saddr != {mac} drop
    iifname "{port}" ip saddr != {address} drop
  }}
}}
""")


# %% guard: only ARP is looked at
# says: a packet from its neighbour's IP address arrives
def guard(port, mac, address):
    nft(f"""
table bridge my-guard {{
  chain spoofing {{
    type filter hook prerouting priority -350;
    iifname "{port}" arp saddr ether != {mac} drop
    iifname "{port}" arp saddr ip != {address} drop
  }}
}}
""")


# %% guard: what ARP says of the hardware address is believed
# says: an ARP answer that gives its address to a foreign hardware address arrives
def guard(port, mac, address):
    nft(f"""
table bridge my-guard {{
  chain spoofing {{
    type filter hook prerouting priority -350;
    iifname "{port}" ether saddr != {mac} drop
    iifname "{port}" arp saddr ip != {address} drop
    iifname "{port}" ip saddr != {address} drop
  }}
}}
""")


# %% guard: the Ethernet header is believed
# says: a packet from a foreign hardware address arrives
def guard(port, mac, address):
    nft(f"""
table bridge my-guard {{
  chain spoofing {{
    type filter hook prerouting priority -350;
    iifname "{port}" arp saddr ether != {mac} drop
    iifname "{port}" arp saddr ip != {address} drop
    iifname "{port}" ip saddr != {address} drop
  }}
}}
""")


# %% guard: in a table of IP, which does not see what stays in the bridge
# says: an ARP answer that claims the gateway's address arrives
def guard(port, mac, address):
    nft(f"""
table ip my-guard {{
  chain spoofing {{
    type filter hook prerouting priority -350;
    iifname "{port}" ip saddr != {address} drop
  }}
}}
""")


# %% guard: all that is no IP packet is dropped
# says: an ARP question of its own does not arrive
def guard(port, mac, address):
    nft(f"""
table bridge my-guard {{
  chain spoofing {{
    type filter hook prerouting priority -350;
    iifname "{port}" ether saddr {mac} ip saddr {address} accept
    iifname "{port}" drop
  }}
}}
""")


# %% guard: at every port
# says: an ARP question of the neighbour does not arrive
def guard(port, mac, address):
    nft(f"""
table bridge my-guard {{
  chain spoofing {{
    type filter hook prerouting priority -350;
    ether saddr != {mac} drop
    arp saddr ether != {mac} drop
    arp saddr ip != {address} drop
    ip saddr != {address} drop
  }}
}}
""")


# %% guard: everybody's rules are flushed
# says: a firewall table of somebody else is gone
def guard(port, mac, address):
    nft(f"""
flush ruleset
table bridge my-guard {{
  chain spoofing {{
    type filter hook prerouting priority -350;
    iifname "{port}" ether saddr != {mac} drop
    iifname "{port}" arp saddr ether != {mac} drop
    iifname "{port}" arp saddr ip != {address} drop
    iifname "{port}" ip saddr != {address} drop
  }}
}}
""")


# %% tunnel: the port's bytes in the machine's own order
# says: the datagrams go to UDP port 46354\nExpected: +4789
def tunnel(name, vni, here, there):
    data = attribute(IFLA_VXLAN_ID, vni) + attribute(IFLA_VXLAN_PORT, struct.pack("=H", 4789))
    data += attribute(IFLA_VXLAN_LOCAL, socket.inet_aton(here)) + attribute(IFLA_VXLAN_GROUP, socket.inet_aton(there))
    kind = attribute(IFLA_INFO_KIND, "vxlan") + attribute(IFLA_INFO_DATA, data)
    body = attribute(IFLA_IFNAME, name) + attribute(IFLA_MTU, 1450) + attribute(IFLA_LINKINFO, kind)
    request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, link(IFF_UP) + body)


# %% tunnel: no port, so the kernel takes its own
# says: the datagrams go to UDP port 8472
def tunnel(name, vni, here, there):
    data = attribute(IFLA_VXLAN_ID, vni)
    data += attribute(IFLA_VXLAN_LOCAL, socket.inet_aton(here)) + attribute(IFLA_VXLAN_GROUP, socket.inet_aton(there))
    kind = attribute(IFLA_INFO_KIND, "vxlan") + attribute(IFLA_INFO_DATA, data)
    body = attribute(IFLA_IFNAME, name) + attribute(IFLA_MTU, 1450) + attribute(IFLA_LINKINFO, kind)
    request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, link(IFF_UP) + body)


# %% tunnel: nobody is at the other end
# says: no datagram leaves 203\.0\.113\.1 for 203\.0\.113\.9
def tunnel(name, vni, here, there):
    data = attribute(IFLA_VXLAN_ID, vni) + attribute(IFLA_VXLAN_PORT, struct.pack("!H", 4789))
    data += attribute(IFLA_VXLAN_LOCAL, socket.inet_aton(here))
    kind = attribute(IFLA_INFO_KIND, "vxlan") + attribute(IFLA_INFO_DATA, data)
    body = attribute(IFLA_IFNAME, name) + attribute(IFLA_MTU, 1450) + attribute(IFLA_LINKINFO, kind)
    request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, link(IFF_UP) + body)


# %% tunnel: here and there are exchanged
# says: no datagram leaves 203\.0\.113\.1 for 203\.0\.113\.9
def tunnel(name, vni, here, there):
    data = attribute(IFLA_VXLAN_ID, vni) + attribute(IFLA_VXLAN_PORT, struct.pack("!H", 4789))
    data += attribute(IFLA_VXLAN_LOCAL, socket.inet_aton(there)) + attribute(IFLA_VXLAN_GROUP, socket.inet_aton(here))
    kind = attribute(IFLA_INFO_KIND, "vxlan") + attribute(IFLA_INFO_DATA, data)
    body = attribute(IFLA_IFNAME, name) + attribute(IFLA_MTU, 1450) + attribute(IFLA_LINKINFO, kind)
    request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, link(IFF_UP) + body)


# %% tunnel: the fifty bytes are forgotten
# says: the MTU of tun7 is 1500\nExpected: +1450
def tunnel(name, vni, here, there):
    data = attribute(IFLA_VXLAN_ID, vni) + attribute(IFLA_VXLAN_PORT, struct.pack("!H", 4789))
    data += attribute(IFLA_VXLAN_LOCAL, socket.inet_aton(here)) + attribute(IFLA_VXLAN_GROUP, socket.inet_aton(there))
    kind = attribute(IFLA_INFO_KIND, "vxlan") + attribute(IFLA_INFO_DATA, data)
    body = attribute(IFLA_IFNAME, name) + attribute(IFLA_LINKINFO, kind)
    request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, link(IFF_UP) + body)


# %% tunnel: nobody sets it up
# says: tun7 is down
def tunnel(name, vni, here, there):
    data = attribute(IFLA_VXLAN_ID, vni) + attribute(IFLA_VXLAN_PORT, struct.pack("!H", 4789))
    data += attribute(IFLA_VXLAN_LOCAL, socket.inet_aton(here)) + attribute(IFLA_VXLAN_GROUP, socket.inet_aton(there))
    kind = attribute(IFLA_INFO_KIND, "vxlan") + attribute(IFLA_INFO_DATA, data)
    body = attribute(IFLA_IFNAME, name) + attribute(IFLA_MTU, 1450) + attribute(IFLA_LINKINFO, kind)
    request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, link() + body)


# %% tunnel: the network has no number
# says: the datagrams have the VNI 0
def tunnel(name, vni, here, there):
    data = attribute(IFLA_VXLAN_PORT, struct.pack("!H", 4789))
    data += attribute(IFLA_VXLAN_LOCAL, socket.inet_aton(here)) + attribute(IFLA_VXLAN_GROUP, socket.inet_aton(there))
    kind = attribute(IFLA_INFO_KIND, "vxlan") + attribute(IFLA_INFO_DATA, data)
    body = attribute(IFLA_IFNAME, name) + attribute(IFLA_MTU, 1450) + attribute(IFLA_LINKINFO, kind)
    request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, link(IFF_UP) + body)


# %% network: every container has the same address
# says: two containers that run at the same time both have 172\.29\.0\.2/16
class Network(Part):
    namespaces = linux.CLONE_NEWNET
    container = ""

    def prepare(self, host):
        self.container, self.address = host.id, "172.29.0.2"
        self.port = f"mc{state.tag()}-{host.id[:4]}"
        if bridge_name() not in [name for _, name in socket.if_nameindex()]:
            make_bridge(bridge_name(), GATEWAY)
            way_out(SUBNET, bridge_name())

    def attach(self, host):
        cable(self.port, "eth0", host.pid, bridge_name())

    def join(self, inside):
        set_up(self.address, 16, GATEWAY)

    def release(self):
        if self.container:
            delete_link(self.port)


# %% network: nothing is taken down at the end
# says: after the last container has ended there is still mc
class Network(Part):
    namespaces = linux.CLONE_NEWNET
    container = ""

    def prepare(self, host):
        self.container, self.plan = host.id, f"{state.data_root()}/networks/mine.json"
        os.makedirs(os.path.dirname(self.plan), exist_ok=True)
        self.address = reserve(self.plan, host.id)
        self.port = f"mc{state.tag()}-{self.address.rpartition('.')[2]}"
        if bridge_name() not in [name for _, name in socket.if_nameindex()]:
            make_bridge(bridge_name(), GATEWAY)
            way_out(SUBNET, bridge_name())

    def attach(self, host):
        cable(self.port, "eth0", host.pid, bridge_name())

    def join(self, inside):
        set_up(self.address, 16, GATEWAY)

    def release(self):
        if self.container:
            give_back(self.plan, self.container)
            self.container = ""


# %% network: the rules and ip_forward stay
# says: test_every_container_takes_its_own_with_it_and_the_last_one_the_rest
class Network(Part):
    namespaces = linux.CLONE_NEWNET
    container = ""

    def prepare(self, host):
        self.container, self.plan = host.id, f"{state.data_root()}/networks/mine.json"
        os.makedirs(os.path.dirname(self.plan), exist_ok=True)
        self.address = reserve(self.plan, host.id)
        self.port = f"mc{state.tag()}-{self.address.rpartition('.')[2]}"
        if bridge_name() not in [name for _, name in socket.if_nameindex()]:
            make_bridge(bridge_name(), GATEWAY)
            way_out(SUBNET, bridge_name())

    def attach(self, host):
        cable(self.port, "eth0", host.pid, bridge_name())

    def join(self, inside):
        set_up(self.address, 16, GATEWAY)

    def release(self):
        if not self.container:
            return
        left = give_back(self.plan, self.container)
        self.container = ""
        delete_link(self.port)
        if not left:
            delete_link(bridge_name())


# %% network: the first that ends takes the bridge from the others
# says: test_every_container_takes_its_own_with_it_and_the_last_one_the_rest
class Network(Part):
    namespaces = linux.CLONE_NEWNET
    container = ""

    def prepare(self, host):
        self.container, self.plan = host.id, f"{state.data_root()}/networks/mine.json"
        os.makedirs(os.path.dirname(self.plan), exist_ok=True)
        self.address = reserve(self.plan, host.id)
        self.port = f"mc{state.tag()}-{self.address.rpartition('.')[2]}"
        if bridge_name() not in [name for _, name in socket.if_nameindex()]:
            make_bridge(bridge_name(), GATEWAY)
            way_out(SUBNET, bridge_name())

    def attach(self, host):
        cable(self.port, "eth0", host.pid, bridge_name())

    def join(self, inside):
        set_up(self.address, 16, GATEWAY)

    def release(self):
        if not self.container:
            return
        give_back(self.plan, self.container)
        self.container = ""
        delete_link(self.port)
        if bridge_name() in [name for _, name in socket.if_nameindex()]:
            delete_link(bridge_name())
            nft("delete table ip my-network")
            linux.write("/proc/sys/net/ipv4/ip_forward", "0")


# %% network: no namespace is asked for
# says: in the host's network namespace|could not attach: \[Errno 17\] File exists
class Network(Part):
    container = ""

    def prepare(self, host):
        self.container, self.plan = host.id, f"{state.data_root()}/networks/mine.json"
        os.makedirs(os.path.dirname(self.plan), exist_ok=True)
        self.address = reserve(self.plan, host.id)
        self.port = f"mc{state.tag()}-{self.address.rpartition('.')[2]}"
        if bridge_name() not in [name for _, name in socket.if_nameindex()]:
            make_bridge(bridge_name(), GATEWAY)
            way_out(SUBNET, bridge_name())

    def attach(self, host):
        cable(self.port, "eth0", host.pid, bridge_name())

    def join(self, inside):
        set_up(self.address, 16, GATEWAY)

    def release(self):
        if self.container and not give_back(self.plan, self.container):
            delete_link(bridge_name())
            nft("delete table ip my-network")
            linux.write("/proc/sys/net/ipv4/ip_forward", "0")
        self.container = ""
