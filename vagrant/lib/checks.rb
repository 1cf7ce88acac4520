# Before `up`: would it fail halfway? Then better now, with a word on what to type instead.

require "socket"

module Course
  module Checks
    HEADROOM = 256 # MiB that the host keeps to itself

    module_function

    def run(settings)
      return unless settings.check
      memory(settings, free_memory)
      port(settings)
    end

    def memory(settings, free)
      return if free.nil? || free >= settings.memory + HEADROOM
      fits = [2048, 1536, 1024, 768].find { |size| free >= size + HEADROOM }
      advice = fits ? "Type: #{Settings.say(:memory, fits)}" : "Close what you do not need: 768 MiB is the least that works"
      raise Stop, "The machine wants #{settings.memory} MiB of memory, and this host has #{free} MiB free.\n#{advice}\n" \
                  "(Or go on all the same: #{Settings.say(:check, "no")})"
    end

    def port(settings)
      return if free_port?(settings.port)
      other = ((settings.port + 1)..(settings.port + 100)).find { |each| each < 65_536 && free_port?(each) }
      raise Stop, "Port #{settings.port} of this host is taken: perhaps by another JupyterLab.\n" \
                  "Type: #{Settings.say(:port, other || 9999)}"
    end

    def free_port?(port, address = "127.0.0.1")
      TCPServer.new(address, port).close
      true
    rescue Errno::EADDRINUSE, Errno::EACCES
      false
    end

    # In MiB; nil where this host does not tell.
    def free_memory
      if File.readable?("/proc/meminfo")
        File.read("/proc/meminfo")[/^MemAvailable:\s+(\d+)/, 1].to_i / 1024
      elsif Vagrant::Util::Platform.darwin?
        # macOS gives up its caches for others: three quarters of all can be had
        Integer(`sysctl -n hw.memsize`, exception: false)&.then { |bytes| bytes / 1024 / 1024 * 3 / 4 }
      elsif Vagrant::Util::Platform.windows?
        asked = `powershell -NoProfile -Command "(Get-CimInstance Win32_OperatingSystem).FreePhysicalMemory"`
        Integer(asked.strip, exception: false)&.then { |kib| kib / 1024 }
      end
    rescue Errno::ENOENT
      nil
    end
  end
end
