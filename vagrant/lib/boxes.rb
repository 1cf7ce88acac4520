# Which box: one that is here already, one from the URL that was named, or a public one as long as there is such a place.

require "json"
require "uri"

module Course
  module Boxes
    OURS = "minicontainer/course"
    PUBLIC = "debian/bookworm64"
    PLACES = [".cache/boxes", "boxes"].freeze # where vagrant/box/build puts them, where one copies a stick's to

    Box = Struct.new(:name, :url, :version, :why)

    module_function

    def choose(settings)
      return Box.new(settings.box, settings.box_url, settings.box_version, "you have named it") if settings.box
      if settings.box_url
        return local(settings, settings.box_url) || remote(settings)
      end
      PLACES.each do |place|
        found = local(settings, File.join(settings.root, place))
        return found if found
      end
      Box.new(PUBLIC, nil, settings.box_version, settings.offline ? "" : "there is no box of ours here")
    end

    # A folder with boxes, its metadata.json, or a box itself. A catalog's addresses are relative to where it lies,
    # and Vagrant wants whole ones: so a completed copy is made.
    def local(settings, place)
      path = File.expand_path(place.delete_prefix("file://"), settings.root)
      if path.end_with?(".box") && File.file?(path)
        return Box.new(File.basename(path, ".box"), address(path), nil, "the box #{path}")
      end
      path = File.join(path, "metadata.json") if File.directory?(path)
      return nil unless File.file?(path)
      catalog = read(path)
      catalog["versions"].each do |version|
        version["providers"].each do |provider|
          next if provider["url"] =~ /\A[a-z]+:\/\//
          provider["url"] = address(File.expand_path(provider["url"], File.dirname(path)))
        end
      end
      FileUtils.mkdir_p(settings.dotfile)
      copy = File.join(settings.dotfile, "catalog.json")
      File.write(copy, JSON.pretty_generate(catalog))
      Box.new(catalog.fetch("name", OURS), address(copy), settings.box_version, "the catalog #{path}")
    end

    # What Vagrant's downloader takes: /a stick/x is file:///a%20stick/x, C:/x is file:///C:/x.
    def address(path)
      "file://#{"/" unless path.start_with?("/")}#{URI::DEFAULT_PARSER.escape(path, /[^-_.~a-zA-Z0-9\/:]/)}"
    end

    def read(path)
      catalog = JSON.parse(File.read(path))
      catalog["versions"].each { |version| version.fetch("providers").each { |provider| provider.fetch("url") } }
      catalog
    rescue JSON::ParserError, KeyError, NoMethodError => error
      raise Stop, "#{path} is no catalog of boxes (#{error.message.lines.first.strip})\n" \
                  "Make it anew: vagrant/box/catalog #{File.dirname(path)}"
    end

    def remote(settings)
      unless settings.box_url =~ /\Ahttps?:\/\//
        raise Stop, "There is no box in #{settings.box_url}\nName a folder with boxes, a catalog or a URL: " +
                    Settings.say(:box_url, "/media/stick/boxes")
      end
      Box.new(OURS, settings.box_url, settings.box_version, "the catalog at #{settings.box_url}")
    end
  end
end
