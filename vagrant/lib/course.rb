# The course's files as one archive, made by Ruby alone: no rsync, no shared folder, the same from Windows.
#
# Files that a checkout on Windows has given other line endings, or no executable bit, get them back.

require "digest"
require "fileutils"
require "rubygems/package"
require "stringio"
require "zlib"

module Course
  class Archive
    SKIPPED = /(\A|\/)(__pycache__|\.ipynb_checkpoints|\.[a-z_]+_cache)(\/|\z)|\.pyc\z/

    def initialize(settings)
      @settings = settings
    end

    # Made when it is about to be used: Vagrant also reads its file for `vagrant status`.
    def path
      path = File.join(@settings.dotfile, "course.tar.gz")
      write(path) if !File.exist?(path) || (ARGV & %w[up provision reload]).any?
      path
    end

    def write(path)
      FileUtils.mkdir_p(File.dirname(path))
      content = StringIO.new("".b)
      zip = Zlib::GzipWriter.new(content, Zlib::BEST_SPEED)
      zip.mtime = 1
      Gem::Package::TarWriter.new(zip) { |tar| files.each { |name, (text, mode)| add(tar, name, mode, text) } }
      zip.close
      # the old one stays as it is when nothing has changed, and another process never sees half of it
      return if File.exist?(path) && File.binread(path) == content.string
      File.binwrite("#{path}.#{Process.pid}", content.string, perm: 0o600)
      File.rename("#{path}.#{Process.pid}", path)
    rescue SystemCallError => error
      FileUtils.rm_f("#{path}.#{Process.pid}")
      raise Stop, "The course cannot be packed for the machine: #{error.message}\n" \
                  "It goes to #{File.dirname(path)}: make room there, or see that you may write to it"
    end

    private

    def files
      found = {}
      names = File.readlines(File.join(@settings.root, "vagrant/course-files"), chomp: true).reject(&:empty?)
      names.each do |name|
        Dir.glob([name, "#{name}/**/*"], File::FNM_DOTMATCH, base: @settings.root).sort.each do |each|
          whole = File.join(@settings.root, each)
          next if each =~ SKIPPED || !File.file?(whole)
          found[each] = text_and_mode(whole)
        end
      end
      found[".host/token"] = [@settings.token, 0o600]
      found[".host/proxy"] = [@settings.proxy, 0o644] if @settings.proxy
      found[".host/ca.crt"] = [certificate(@settings.ca), 0o644] if @settings.ca
      found
    end

    def text_and_mode(path)
      content = File.binread(path)
      content = content.gsub("\r\n".b, "\n".b) unless content.include?("\0".b)
      [content, content.start_with?("#!".b) ? 0o755 : 0o644]
    end

    def certificate(path)
      text = File.read(File.expand_path(path, @settings.root))
      return text if text.include?("-----BEGIN CERTIFICATE-----")
      raise Stop, "#{path} is no certificate in PEM form (-----BEGIN CERTIFICATE-----)"
    rescue Errno::ENOENT
      raise Stop, "There is no file #{path}: MINICONTAINER_CA names the certificate of your proxy's authority"
    end

    def add(tar, name, mode, content)
      tar.add_file_simple(name, mode, content.bytesize) { |file| file.write(content) }
    end
  end
end
