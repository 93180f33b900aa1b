"""VEGA-3D's policy as a plug-in of LeRobot, which imports this package by the prefix of its name."""

from .configuration_vega3d import Vega3dConfig

__all__ = ["Vega3dConfig"]
