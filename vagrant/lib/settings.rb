# What can be changed about the machine, and what it is if nobody does.
#
# An environment variable MINICONTAINER_NAME wins over a line in Vagrantfile.local, that over the default below.
# Vagrantfile.local is Ruby: `memory 4096`, `port 9999`, and for all that Vagrant itself knows
#
#     configure { |config| config.vm.provider("virtualbox") { |virtualbox| virtualbox.gui = true } }

module Course
  # A message for whoever typed the command: what is wrong, and what to type instead. No stack of Ruby calls.
  class Stop < Vagrant::Errors::VagrantError
    def initialize(message)
      @message = message
      super()
    end

    def error_message
      @message
    end
  end

  class Settings
    DEFAULTS = {
      memory: 2048,          # MiB; 1024 is enough for all chapters but the build of many images
      cpus: 2,
      port: 8888,            # JupyterLab's, on this host
      listen: "127.0.0.1",   # the address of this host that has it: another one only for a class (vagrant/class)
      name: "course",        # several machines from one checkout: each its own name, port and VAGRANT_DOTFILE_PATH
      box: nil,              # a public box instead of ours: debian/bookworm64
      box_url: nil,          # where our boxes are: a catalog's URL or path, or a folder with boxes (a stick)
      box_version: nil,
      offline: false,        # never ask the Internet: a box that is not here is an error
      proxy: nil,            # http://192.0.2.1:3128, as the machine sees it
      ca: nil,               # a file with the certificate of the authority that this proxy signs with
      driver: nil,           # libvirt's: kvm, or qemu where there is no virtualisation (slow); found out unless given
      insert_key: true,      # false: keep the key that everybody knows (quicker, for tests)
      boot_timeout: 600,     # seconds
      work: "work",          # the folder on this host that keeps the learner's work
      check: true            # false: no look at the host's memory and port before `up`, nor for your work before `destroy`
    }.freeze
    WHOLE_NUMBERS = { memory: 512..1_048_576, cpus: 1..256, port: 1024..65_535, boot_timeout: 30..86_400 }.freeze

    attr_reader :root

    def self.read(root)
      new(root)
    end

    def initialize(root)
      @root = root
      @values = DEFAULTS.dup
      @blocks = []
      local = File.join(root, "Vagrantfile.local")
      read_local(local) if File.exist?(local)
      DEFAULTS.each_key do |name|
        given = ENV["MINICONTAINER_#{name.upcase}"]
        @values[name] = given unless given.nil? || given.empty?
      end
      check_values
    end

    # In Vagrantfile.local `memory 4096` sets; everywhere else `settings.memory` reads.
    DEFAULTS.each_key do |name|
      define_method(name) do |*value|
        @values[name] = value.first unless value.empty?
        @values[name]
      end
    end

    # Without a block: carry out the blocks of Vagrantfile.local.
    def configure(config = nil, &block)
      block ? @blocks << block : @blocks.each { |each| each.call(config) }
    end

    # Only `up` and `reload` look at it; asking takes a second.
    def driver
      return "kvm" unless @values[:driver] || (ARGV & %w[up reload]).any?
      @values[:driver] ||= self.class.kvm? ? "kvm" : "qemu"
    end

    # /dev/kvm alone says little: within a virtual machine it may be there and fail. QEMU is asked.
    def self.kvm?
      return false unless File.exist?("/dev/kvm")
      return true unless system("qemu-system-x86_64", "--version", out: File::NULL, err: File::NULL)
      system("echo quit | timeout 10 qemu-system-x86_64 -accel kvm -cpu max -nodefaults -display none -S " \
             "-monitor stdio", out: File::NULL, err: File::NULL)
    end

    # Where Vagrant keeps what belongs to this machine; the token, too.
    def dotfile
      File.expand_path(ENV["VAGRANT_DOTFILE_PATH"] || ".vagrant", root)
    end

    def token
      path = File.join(dotfile, "minicontainer-token")
      unless File.size?(path)
        require "securerandom"
        FileUtils.mkdir_p(dotfile)
        File.write(path, SecureRandom.hex(24), perm: 0o600)
      end
      File.read(path).strip
    end

    def link
      "http://#{listen}:#{port}/lab/tree/notebooks/00-start-here.ipynb?token=#{token}"
    end

    # How to say a setting on the command line of this host.
    def self.say(name, value, command = "vagrant up")
      if Vagrant::Util::Platform.windows?
        "$env:MINICONTAINER_#{name.to_s.upcase}=\"#{value}\"; #{command}"
      else
        "MINICONTAINER_#{name.to_s.upcase}=#{value} #{command}"
      end
    end

    private

    def read_local(path)
      instance_eval(File.read(path, encoding: "UTF-8"), path)
    rescue NameError, SyntaxError, ArgumentError => error
      raise Stop, "Vagrantfile.local cannot be read: #{error.message}\n" \
                  "It may set #{DEFAULTS.keys.join(", ")}, each as: memory 4096"
    end

    def check_values
      WHOLE_NUMBERS.each do |name, range|
        number = Integer(@values[name].to_s, exception: false)
        unless number && range.cover?(number)
          raise Stop, "#{name} is #{@values[name].inspect}: it must be a whole number from #{range.first} to " \
                      "#{range.last}\nFor example: #{self.class.say(name, DEFAULTS[name])}"
        end
        @values[name] = number
      end
      %i[offline insert_key check].each do |name|
        @values[name] = !%w[false no 0 off].include?(@values[name].to_s.downcase)
      end
    end
  end
end
