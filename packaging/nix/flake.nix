# Not tried: nobody has built this flake yet.
#   nix build "git+file:///path/of/the/repository?dir=packaging/nix"       the command: result/bin/criu-signals
#   nix build "git+file:///path/of/the/repository?dir=packaging/nix#plugin"
# NixOS has no plugin folder that packages add to: name the plugin's in a configuration file of criu, or by --libdir:
#   environment.etc."criu/default.conf".text = "libdir ${criu-signals.packages.x86_64-linux.plugin}/lib/criu";
{
  description = "CRIU plugin and command that capture, check and restore signal state";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs = { self, nixpkgs }:
    let
      pkgs = nixpkgs.legacyPackages.x86_64-linux;
      both = pkgs.rustPlatform.buildRustPackage {
        pname = "criu-signals";
        version = "0.1.0";
        src = ../..;
        cargoLock.lockFile = ../../Cargo.lock;
        # For bindgen.
        nativeBuildInputs = [ pkgs.pkg-config pkgs.rustPlatform.bindgenHook ];
        CRIU_INCLUDE_DIR = "${pkgs.criu}/include/criu";
        cargoBuildFlags = [ "-p" "criu-signals" "-p" "signals-plugin" ];
        # The other tests need root and a criu.
        cargoTestFlags = [ "-p" "criu-signals-images" "--lib" ];
        outputs = [ "out" "plugin" ];
        postInstall = ''
          mkdir -p $plugin/lib/criu
          mv $out/lib/libsignals_plugin.so $plugin/lib/criu/signals_plugin.so
          rmdir --ignore-fail-on-non-empty $out/lib
          install -m 755 packaging/checkpointctl-signals $out/bin/
        '';
        meta = {
          description = "Show, compare, save and restore signal state of processes";
          license = nixpkgs.lib.licenses.gpl2Plus;
          platforms = [ "x86_64-linux" ];
          mainProgram = "criu-signals";
        };
      };
    in {
      packages.x86_64-linux = {
        default = both;
        plugin = both.plugin;
      };
    };
}
