// What the viewer takes of its two libraries, as one global name. Built by scripts/build_viewer.py.
import {
  BufferGeometry,
  Color,
  Float32BufferAttribute,
  LineBasicMaterial,
  LineSegments,
  Matrix4,
  PerspectiveCamera,
  Quaternion,
  Scene,
  Vector3,
  WebGLRenderer,
} from "three";
import { RgbaArray, SparkRenderer, SplatMesh } from "@sparkjsdev/spark";

globalThis.SplatLibrary = {
  BufferGeometry,
  Color,
  Float32BufferAttribute,
  LineBasicMaterial,
  LineSegments,
  Matrix4,
  PerspectiveCamera,
  Quaternion,
  RgbaArray,
  Scene,
  SparkRenderer,
  SplatMesh,
  Vector3,
  WebGLRenderer,
};
