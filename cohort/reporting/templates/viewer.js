"use strict";
// Opens the slice viewer when it is asked for. NiiVue comes as the widget of ipyniivue, which speaks to a model of named
// values (the anywidget protocol); here the model lives in the page, and nobody listens on a network.
(() => {
  const at = (id) => document.getElementById(id);
  const say = (text) => { at("viewer-state").textContent = text; };

  async function unpacked(id) {
    const text = at(id).textContent.trim();
    const bytes = Uint8Array.from(atob(text.slice(text.indexOf(",") + 1)), (c) => c.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
  }

  class Model {
    constructor(values, models = {}) {
      this.values = values;
      this.listeners = new Map();
      this.widget_manager = { get_model: async (id) => models[id] };
    }
    get(name) { return this.values[name]; }
    set(name, value) { this.values[name] = value; }
    on(name, told) { this.listeners.set(name, [...(this.listeners.get(name) || []), told]); }
    off(name) { this.listeners.delete(name); }
    tell(name, ...what) { for (const told of this.listeners.get(name) || []) told(...what); }
    change(name, value) { this.set(name, value); this.tell("change:" + name); }
    save_changes() {}
    onChange() {}
    send(message) {
      if (message.event === "location_change") at("viewer-where").textContent = described(message.data);
    }
  }

  function described(place) {
    const mm = place.mm.slice(0, 3).map((v, i) => "xyz"[i] + " " + v.toFixed(1) + " mm").join(", ");
    const value = place.values.length ? ": " + Number(place.values[0].value.toPrecision(5)) : "";
    return mm + value;
  }

  function volume(id, data, more) {
    return new Model({
      id, name: id + ".nii", path: {}, paired_img_path: {}, data: new DataView(data), opacity: 1, colormap: "gray",
      colormap_negative: "", colormap_type: 0, colormap_invert: false, colormap_label: null, colorbar_visible: false,
      frame_4d: 0, modulation_image: null, modulate_alpha: 0, ...more,
    });
  }

  async function program() {
    const script = document.createElement("script");
    script.type = "module";
    script.textContent = new TextDecoder().decode(await unpacked("viewer-program"));
    const given = new Promise((done, failed) => {
      addEventListener("niivue", (event) => done(event.detail), { once: true });
      addEventListener("error", (event) => failed(new Error(event.message)), { once: true });
      document.addEventListener("securitypolicyviolation", () => failed(new Error("the page's policy refuses it")), { once: true });
    });
    document.body.append(script);
    return given;
  }

  const KEYS = {
    ArrowLeft: [-1, 0, 0], ArrowRight: [1, 0, 0], ArrowUp: [0, 1, 0], ArrowDown: [0, -1, 0], PageUp: [0, 0, 1], PageDown: [0, 0, -1],
  };

  function controls(model, models, setup) {
    const canvas = at("viewer").querySelector("canvas");
    canvas.tabIndex = 0;
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", "Three planes of the scan; arrow keys, page up and page down move the cross");
    canvas.addEventListener("keydown", (event) => {
      // Only these and the tabulator: NiiVue has keys of its own, for movies and surfaces, that a page of slices does not want.
      if (event.key !== "Tab") event.stopImmediatePropagation();
      const step = KEYS[event.key];
      if (!step) return;
      event.preventDefault();
      // The picture shows the right side of the patient on the left.
      model.tell("msg:custom", { type: "move_crosshair_in_vox", data: [-step[0], step[1], step[2]] }, []);
    }, true);
    canvas.addEventListener("keyup", (event) => event.stopImmediatePropagation(), true);
    for (const [id, name] of [["viewer-low", "cal_min"], ["viewer-high", "cal_max"]]) {
      at(id).value = setup[name];
      at(id).addEventListener("change", () => {
        if (Number.isFinite(at(id).valueAsNumber)) models.image.change(name, at(id).valueAsNumber);
      });
    }
    if (models.labels) at("viewer-opacity").addEventListener("input", () => models.labels.change("opacity", at("viewer-opacity").valueAsNumber));
    at("viewer-controls").hidden = false;
  }

  async function open() {
    if (!document.createElement("canvas").getContext("webgl2")) {
      throw new Error("this browser has no WebGL 2; the planes above show the same scan");
    }
    const setup = JSON.parse(at("viewer-setup").textContent);
    const widget = await program();
    const window = { cal_min: setup.cal_min, cal_max: setup.cal_max };
    const models = { image: volume("image", await unpacked("viewer-image"), window) };
    if (at("viewer-labels")) {
      models.labels = volume("labels", await unpacked("viewer-labels"), {
        colormap: "gray", opacity: at("viewer-opacity").valueAsNumber, colormap_label: { lut: setup.lut, min: 0, max: setup.lut.length / 4 - 1, labels: setup.labels },
      });
    }
    const model = new Model({
      // Slices only: a surface of a head is a face.
      opts: {
        sliceType: 3, multiplanarShowRender: 0, isRadiologicalConvention: true, sagittalNoseLeft: true, dragAndDropEnabled: false,
        viewModeHotKey: "", clipPlaneHotKey: "", cycleClipPlaneHotKey: "", crosshairColor: [1, 0.75, 0.04, 0.8], crosshairWidth: setup.cross_mm,
        crosshairWidthUnit: "mm", logLevel: "error",
      },
      volumes: Object.keys(models).map((id) => "IPY_MODEL_" + id),
      meshes: [], height: 480, draw_opacity: 0, overlay_outline_width: 0, overlay_alpha_shader: 1, background_masks_overlays: 0,
    }, models);
    at("viewer").hidden = false;
    await widget.initialize({ model });
    await widget.render({ model, el: at("viewer") });
    controls(model, models, setup);
  }

  at("viewer-open").addEventListener("click", async () => {
    at("viewer-open").disabled = true;
    say("Opening …");
    try {
      await open();
      at("viewer-open").hidden = true;
      at("viewer").dataset.state = "ready";
      say("");
      at("viewer").querySelector("canvas").focus();
    } catch (error) {
      at("viewer").hidden = true;
      at("viewer").dataset.state = "failed";
      at("viewer-open").disabled = false;
      say("The viewer does not open: " + error.message);
    }
  });
  at("viewer-open").hidden = false;
})();
