# The learner's work lives on the machine's own disk, and this host keeps a copy in work/: of everything they have
# edited or made, and of nothing else. Both sides meet after `up`, `reload` and `provision`, and before `halt`, `reload`
# and `destroy`; of two versions of a file the newer one wins, the other is kept in .before/ beside it.

require "fileutils"
require "rubygems/package"
require "stringio"
require "zlib"

module Course
  # One machine's work, and the folder on this host.
  class Work
    GUEST = "/opt/minicontainer/vagrant/guest/work"
    # tar knows whole seconds, some file systems only even ones
    CLOSE = 2

    def initialize(machine, folder)
      @machine = machine
      @folder = folder
    end

    # Returns what was said about it.
    def meet(push: true)
      guest = fetch
      said = pull(guest)
      said += send_back(guest) if push
      said
    end

    # What the machine has: path => [time, content].
    def fetch
      text = +""
      @machine.communicate.sudo("test ! -x #{GUEST} || #{GUEST} pack") { |type, data| text << data if type == :stdout }
      found = {}
      return found if text.empty?
      zip = Zlib::GzipReader.new(StringIO.new(text.unpack1("m")))
      Gem::Package::TarReader.new(zip).each do |entry|
        found[entry.full_name] = [entry.header.mtime, entry.read || ""] if entry.file? && Work.harmless?(entry.full_name)
      end
      found
    end

    # The machine is the learner's to break: a name from there must not leave the folder.
    def self.harmless?(name)
      !name.start_with?("/") && !name.match?(/\A[A-Za-z]:|\\/) && !name.split("/").include?("..")
    end

    def pull(guest)
      guest.filter_map do |name, (time, content)|
        path = File.join(@folder, name)
        if File.exist?(path)
          next if File.binread(path) == content.b || File.mtime(path).to_i > time + CLOSE
          keep(path, name)
        end
        FileUtils.mkdir_p(File.dirname(path))
        File.binwrite("#{path}.part", content)
        File.rename("#{path}.part", path)
        File.utime(time, time, path)
        "kept on this host: #{File.join(File.basename(@folder), name)}"
      rescue SystemCallError => error
        FileUtils.rm_f("#{path}.part")
        raise Stop, "Your work cannot be kept on this host: #{error.message}\n" \
                    "It is still in the machine. Make room in #{@folder}, or see that you may write there; type it again"
      end
    end

    def send_back(guest)
      newer = mine.reject do |name|
        time, content = guest[name]
        path = File.join(@folder, name)
        time && (File.binread(path) == content.b || File.mtime(path).to_i <= time + CLOSE)
      end
      return [] if newer.empty?
      archive = File.join(Dir.mktmpdir("work"), "work.tar")
      File.open(archive, "wb") { |file| write(file, newer) }
      @machine.communicate.upload(archive, "/dev/shm/work.tar")
      said = []
      @machine.communicate.sudo("#{GUEST} unpack /dev/shm/work.tar && rm /dev/shm/work.tar") do |type, data|
        said += data.lines(chomp: true).map { |line| line.delete_prefix("== ") } if type == :stdout
      end
      said
    ensure
      FileUtils.rm_rf(File.dirname(archive)) if archive
    end

    private

    def mine
      Dir.glob("**/*", base: @folder).sort.select do |name|
        File.file?(File.join(@folder, name)) && !name.end_with?(".part")
      end
    end

    def keep(path, name)
      before = File.join(@folder, ".before", name)
      FileUtils.mkdir_p(File.dirname(before))
      FileUtils.cp(path, before, preserve: true)
    end

    # Ruby's own TarWriter gives every file the time of now; the header of a tar is not much.
    def write(file, names)
      names.each do |name|
        path = File.join(@folder, name)
        content = File.binread(path)
        short, prefix = Gem::Package::TarWriter.new(file).split_name(name)
        file.write(Gem::Package::TarHeader.new(name: short, prefix: prefix, mode: 0o644, size: content.bytesize,
                                               mtime: File.mtime(path).to_i).to_s)
        file.write(content, "\0" * (-content.bytesize % 512))
      end
      file.write("\0" * 1024)
    end
  end

  module_function

  # Before the machine stops. One that is broken must be able to stop, too; away it goes only when somebody insists.
  def bring_home(machine, folder, settings, last)
    if machine.state.id == :running && machine.communicate.ready?
      Work.new(machine, folder).meet(push: false).each { |line| machine.ui.info(line) }
    elsif machine.id
      machine.ui.warn("The machine does not answer: #{settings.work}/ has your work as of the last time it did")
    end
  rescue Stop
    raise
  rescue Vagrant::Errors::VagrantError => error
    why = error.message.lines.map(&:strip).reject(&:empty?).last
    said = "Your work could not be asked for (#{why}): #{settings.work}/ has it as of the last time it could"
    raise Stop, "#{said}.\nTo lose the rest: #{Settings.say(:check, "no", "vagrant destroy")}" if last && settings.check
    machine.ui.warn(said)
  end

  # Whether its `up` was interrupted before its end. Vagrant only provisions a machine that runs: it neither waits until
  # that has booted nor forwards its port.
  def half_started?(machine, settings)
    return false unless machine.state.id == :running
    Checks.free_port?(settings.port, settings.listen) || !machine.communicate.ready?
  end

  def triggers(config, settings, box)
    folder = File.expand_path(settings.work, settings.root)

    config.trigger.before :up do |trigger|
      trigger.name = "the host"
      trigger.ruby do |_, machine|
        if Course.half_started?(machine, settings)
          machine.ui.warn("Its last start was interrupted: it is started once more")
          machine.action(:halt, force_halt: true)
        elsif machine.state.id != :running
          if settings.offline && box.why.empty?
            raise Stop, "There is no box here, and you asked for no Internet.\nBring one: " +
                        Settings.say(:box_url, "/media/stick/boxes")
          end
          machine.ui.info("Box: #{box.name}, #{box.why}") unless machine.id
          Checks.run(settings)
        end
      end
    end

    [[:halt, false], [:reload, false], [:suspend, false], [:destroy, true]].each do |command, last|
      config.trigger.before command do |trigger|
        trigger.name = "your work"
        trigger.ruby { |_, machine| Course.bring_home(machine, folder, settings, last) }
      end
    end

    config.trigger.after [:up, :reload, :provision, :resume] do |trigger|
      trigger.name = "your work"
      trigger.ruby do |_, machine|
        next unless machine.state.id == :running
        # a machine that slept, or has never met a time server, goes by this host's clock
        now = Time.now.to_i
        machine.communicate.sudo("d=$(($(date +%s) - #{now})); [ ${d#-} -lt 30 ] || date -s @#{now} >/dev/null")
        Work.new(machine, folder).meet.each { |line| machine.ui.info(line) }
        machine.ui.success("JupyterLab: #{settings.link}")
      end
    end
  end
end
